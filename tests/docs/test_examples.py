"""The scripts in docs/examples run on a few steps, each in a process of its own."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import dataset_writers as writers
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"


def run(name: str, folder: Path, *arguments: object) -> str:
    """The output of a script that runs in a folder of its own."""
    command = [sys.executable, EXAMPLES / name, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout


def draw(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).integers(0, 256, (80, 100, 3), np.uint8)
    Image.fromarray(noise).save(path)


def test_cub_with_timm_trains_from_the_folder_to_an_accuracy(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    images = {number: (number % 4 + 1, number % 3 > 0) for number in range(1, 25)}
    writers.write_cub(tmp_path, [f"{number:03}.Bird" for number in range(1, 5)], images, draw)
    options = shlex.split("--model test_resnet --from-scratch --pixels 64 --epochs 2 --batch-size 4 --workers 0")
    lines = run("cub_timm.py", tmp_path, tmp_path / "CUB_200_2011", *options).splitlines()
    found = [
        re.fullmatch(r"epoch (\d): loss [\d.]+, L_dis [\d.]+, L_div ([\d.]+), test accuracy ([\d.]+) %", line)
        for line in lines
    ]
    assert [match and match[1] for match in found] == ["1", "2"]
    assert all(1 <= float(match[2]) <= 24 for match in found if match)
    assert all((float(match[3]) / 100 * 8) % 1 < 1e-6 for match in found if match)  # of 8 test images
    assert (tmp_path / "cub-test_resnet.pt").is_file()


def test_lightning_logs_the_components(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    printed = run("lightning_module.py", tmp_path)
    values = dict(re.findall(r"'([\w/]+)': (-?[\d.]+)", printed))
    assert values.keys() == {"train/cross_entropy", "train/L_dis", "train/L_div", "val/accuracy", "val/L_dis"}
    assert 1 < float(values["train/L_div"]) < 50 / 12


def test_the_trainer_of_hugging_face_logs_the_components(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    printed = run("hugging_face.py", tmp_path)
    assert re.search(r"^\{'eval_loss': [\d.]+\} \['L_dis', 'L_div'\]$", printed, flags=re.MULTILINE)


def test_the_exported_classifier_gives_the_same_logits(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert "give the logits of the network" in run("export_classifier.py", tmp_path)


def test_every_script_is_tested_and_named_on_the_page() -> None:
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert scripts == set(re.findall(r'run\("(\w+\.py)"', Path(__file__).read_text()))
    page = (ROOT / "docs" / "integrations.md").read_text()
    assert scripts == set(re.findall(r"\(examples/(\w+\.py)\)", page))
