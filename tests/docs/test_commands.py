"""The commands in the blocks of the pages run: one after the other as they stand, in a folder that looks like a clone.

Options that make them small are put at their ends, where they override those before.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from glob import glob
from importlib import import_module
from pathlib import Path

import commands
import numpy as np
import pytest
from few_fonts import FOLDER
from pages import PATHS, Page
from PIL import Image

ROOT = Path(__file__).parents[2]

AS_IT_IS = ("--help", "resume", "--redraw")
FONTS = f"--data {FOLDER} --seeds 0 --epochs 1 --batch-size 20 --processes 1"
IMAGES = (
    "--dataset folder --transform from_scratch --pooling max --backbone resnet18 --backbone-weights= "
    "--channels-per-class 0 --batch-size 8 --epochs 1 --learning-rate 0.001"
)
SMALL = {
    "reference demo": FONTS,
    "reference ablation --recipe": f"{IMAGES} --channels-per-class 3 --seeds 0 --over-channels-per-class",
    "reference ablation": FONTS,
    "reference search": FONTS,
    "reference train": IMAGES,
    "bench gpu": "--minutes 0",  # `test_gpu` runs all of it
    "bench run": "--cases '512x7x7 (88x2 + 112x3) float32 contiguous' --no-sweeps --turns 1 --modes both",
    "bench report": "--results bench/results",
}
"""Options to append to a command that begins like this; of several, the first counts."""

OUTSIDE = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "GIT_", "COV_"))}
OUTSIDE["GIT_CONFIG_GLOBAL"] = os.devnull
"""The environment of a user who runs no tests, and has no settings of git."""

ELSEWHERE = re.compile(
    r"(make test|\.ci/run)( +#|$)"  # run every test, this one too
    r"|pip install"  # is what `.ci/package.py` does with the wheel
    r"|(PYENV_VERSION=\S+ )?make compat"  # fetches several gigabytes
)
"""Commands that no test can run."""


def small(command: str) -> list[str]:
    """The words of a command, with options that make it small."""
    words = shlex.split(command, comments=True)
    if not set(AS_IT_IS) & set(words):
        words += shlex.split(next((SMALL[beginning] for beginning in SMALL if f"-m {beginning}" in command), ""))
    return [path for word in words for path in sorted(glob(word)) or [word]]


def commands_of(path: Path) -> list[str]:
    """The commands of a page that can run here."""
    shell = "\n".join(block.content for block in Page(path).blocks if block.info == "bash").replace("\\\n", " ")
    return [command for command in filter(None, shell.splitlines()) if not ELSEWHERE.match(command)]


def run(command: str) -> None:
    """Run a command in the current folder."""
    match small(command):
        case []:
            pass
        case ["make", *arguments]:
            lines = commands.made_by(arguments)
            assert lines, f"nothing of ours is made by this: {command}"
            for line in lines:
                run(line)
        case ["torchrun", *arguments]:
            torchrun = (sys.executable, "-m", "torch.distributed.run", *arguments, "--device", "cpu")
            process = subprocess.Popen(torchrun, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
            guard = threading.Timer(300, process.terminate)  # SIGTERM makes it end its processes
            guard.start()
            status = process.wait()
            guard.cancel()
            assert status == 0, command
        case [_, "-m", "pytest", *arguments]:
            process = subprocess.run((sys.executable, "-m", "pytest", *arguments), cwd=ROOT, env=OUTSIDE, check=False)
            assert process.returncode == 0, command
        case [".venv/bin/pre-commit", "install"]:
            subprocess.run(("git", "init", "--quiet"), env=OUTSIDE, check=True)
            subprocess.run((sys.executable, "-m", "pre_commit", "install"), env=OUTSIDE, check=True)
            assert "pre-commit" in Path(".git", "hooks", "pre-commit").read_text()
        case [_, "-m", module, *arguments]:
            main = import_module(module if "." in module else f"{module}.__main__").main
            try:
                status = main(arguments)
            except SystemExit as ended:  # after --help
                status = ended.code
            assert status == 0, command
        case _:
            raise AssertionError(f"nobody runs this: {command}")


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder, with all that the pages take to be there: a data set DIR and the picture of a bird, too."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        for number in range(8):
            draw(Path("DIR", split, f"bird {number % 4}", f"{number}.jpg"), number)
    draw(Path("bird.jpg"), 0)
    Path("docs", "figures").mkdir(parents=True)
    for path in (
        "docs/ablations.json",
        "docs/ablation_picks.json",
        "docs/gpu.md",
        "docs/performance.md",
        "README.md",
        ".pre-commit-config.yaml",
    ):
        shutil.copy(ROOT / path, path)
    shutil.copytree(ROOT / "bench" / "results", "bench/results")


def draw(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).integers(0, 256, (120, 160, 3), np.uint8)
    Image.fromarray(noise).save(path)


@pytest.mark.parametrize(
    "path", [path for path in PATHS if commands_of(path)], ids=lambda path: str(path.relative_to(ROOT))
)
def test_the_commands_of_a_page_run_in_order(path: Path, clone: None) -> None:
    for command in commands_of(path):
        run(command)
