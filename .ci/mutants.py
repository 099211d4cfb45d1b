"""Put plausible faults into the package, one at a time, and see that a test fails for each: `make mutants`.

Every fault of `mutants.txt` is applied in a copy of the repository and judged by the tests that it names. A fault that
no test notices is a test that is missing. `tests/package/test_mutants.py` fails where one no longer applies.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("mcl_triton", "reference", "bench", "tests", "pyproject.toml")
SECONDS = 900  # that the tests of one fault may take; one that never ends is noticed as well
# Each test runs in a fork of a process that has imported what takes long.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch", "numpy", "hypothesis", "pytest"])


class Mutant(NamedTuple):
    """One fault.

    Attributes:
        file: in `mcl_triton`.
        old, new: the text, found exactly once, and what takes its place.
        test: in `tests/package`, and pytest's words to choose among its tests: at least one must fail.
        why: what would go wrong.
    """

    file: str
    old: str
    new: str
    test: str
    why: str


_FAULT = re.compile(r"^(\S+) \| (.+) \| (.+)\n((?:-.*\n)+)((?:\+.*\n)*)", re.MULTILINE)


def _text(lines: str) -> str:
    return "\n".join(line[1:] for line in lines.splitlines())


MUTANTS = [
    Mutant(file, _text(old), _text(new), test, why)
    for file, test, why, old, new in _FAULT.findall(Path(__file__).with_suffix(".txt").read_text(encoding="utf-8"))
]


def apply(mutant: Mutant, root: Path) -> None:
    """Write the fault into the package in a folder; ValueError where its text is not there exactly once."""
    path = root / "mcl_triton" / mutant.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1 or mutant.old == mutant.new:
        raise ValueError(f"{mutant.file} has {mutant.old!r} {text.count(mutant.old)} times, not once ({mutant.why})")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


@contextmanager
def copy_of_repository() -> Iterator[Path]:
    """A folder with all that the tests of the package need."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        root = Path(folder)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
            else:
                shutil.copy(source, root / name)
        yield root


def run_tests(test: str, root: Path) -> NoReturn:
    """Run the tests of a row in a copy until one fails, and exit as pytest does: the work of a process of its own."""
    os.chdir(root)
    sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != ROOT]
    with (root / "tests.log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    words = [f"tests/package/{word}" if word.endswith(".py") else word for word in test.split()]
    sys.exit(pytest.main(["-x", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", *words]))


def outcome(test: str, mutant: Mutant | None) -> str:
    """Run the tests with a fault, or without any: "killed", "survived", or "broken" where no test could run."""
    with copy_of_repository() as root:
        if mutant is not None:
            apply(mutant, root)
        process = FORKS.Process(target=run_tests, args=(test, root))
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            return "killed"
        return {0: "survived", 1: "killed"}.get(process.exitcode, "broken")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose file, test or reason contains this")
    parser.add_argument("--jobs", type=int, default=2, help="faults that are judged at a time")
    arguments = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if any(arguments.only in part for part in (mutant.file, *mutant[3:]))]
    counts = dict.fromkeys(("killed", "survived", "broken", "failing without"), 0)

    def judge(mutant: Mutant) -> tuple[str, float]:
        start = time.monotonic()
        return outcome(mutant.test, mutant), time.monotonic() - start

    with ThreadPoolExecutor(arguments.jobs) as executor:
        for mutant, (found, seconds) in zip(chosen, executor.map(judge, chosen), strict=True):
            counts[found] += 1
            print(f"{found:9} {seconds:4.0f} s  {mutant.file:24} {mutant.test:44} {mutant.why}", flush=True)
        tests = sorted({mutant.test for mutant in chosen})
        for test, found in zip(tests, executor.map(lambda test: outcome(test, None), tests), strict=True):
            if found != "survived":
                counts["failing without"] += 1
                print(f"{test} fails without a fault, and so says nothing about one")
    print(", ".join(f"{number} {name}" for name, number in counts.items()))
    return int(counts["killed"] < len(chosen) or counts["failing without"] > 0)


if __name__ == "__main__":
    sys.exit(main())
