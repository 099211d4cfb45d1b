"""Stage 2: the tests that a GPU can run, in parallel, chosen by file; tests.log keeps what pytest says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

from reference.training.environment import usable_cores

from .stage import NEEDS_GPU, Part, Setup, Skipped

ROOT = Path(__file__).parents[2]
MOST_PROCESSES = 14  # each has some 600 MB of the GPU's memory for itself

FILES = {  # by part; those that prove most come first
    "as a device runs the kernels": ("tests/package/test_device.py",),
    "kernels": (
        "tests/package/test_kernels.py",
        "tests/package/test_head.py",
        "tests/package/test_infinite_gradients.py",
        "tests/package/test_large_maps.py",
        "tests/package/test_kept_tables.py",
        "tests/package/test_short_way.py",
        "tests/reference/test_training_tools.py",
    ),
    "loss and torch.compile": (
        "tests/package/test_backends.py",
        "tests/package/test_compile.py",
        "tests/package/test_mask.py",
    ),
    "measurements": ("tests/bench/test_compare.py", "tests/bench/test_launches.py"),
}


def parts(setup: Setup) -> list[Part]:
    """A run of pytest per group of files; without a GPU one that collects them all."""
    if not setup.is_gpu:
        return [Part("all", lambda: run(setup, tuple(chain.from_iterable(FILES.values()))))]
    return [
        Part(name, lambda files=files: run(setup, files))  # type: ignore[misc]
        for name, files in FILES.items()
    ]


def run(setup: Setup, files: tuple[str, ...]) -> str:
    """The summary of pytest; without a GPU the files are collected only, to see that they can be imported here."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", *files]
    if not setup.is_gpu:
        status, output = _pytest([*command, "--collect-only", "-q"], setup.folder / "tests.log")
        if status != 0:
            raise AssertionError(f"pytest ended with status {status}: {summary(output)}")
        raise Skipped(f"{NEEDS_GPU}; {summary(output)}")
    command += ["-v", "--tb=short", "--durations=10"]
    if find_spec("xdist"):
        command += ["--numprocesses", str(max(1, min(usable_cores() - 1, MOST_PROCESSES))), "--dist", "worksteal"]
    status, output = _pytest(command, setup.folder / "tests.log")
    print(*re.findall(r"^(?:FAILED|ERROR) .*", output, flags=re.MULTILINE), sep="\n")
    if status != 0:
        raise AssertionError(f"pytest ended with status {status}: {summary(output)}")
    return summary(output)


def summary(output: str) -> str:
    """The last line of pytest's output that counts tests."""
    counts = re.findall(r"^=* *(\d+ (?:passed|failed|skipped|error|tests? collected|deselected).*?) *=*$", output, re.M)
    return counts[-1] if counts else "it counted no tests"


def _pytest(command: list[str], log: Path) -> tuple[int, str]:
    """Exit status and output of pytest, which is appended to the log as it comes."""
    before = log.stat().st_size if log.exists() else 0
    with open(log, "ab") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=os.environ)
        try:
            status = process.wait()
        except KeyboardInterrupt:  # pytest got it too, and says how far it came
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
            raise
    return status, log.read_bytes()[before:].decode(errors="replace")
