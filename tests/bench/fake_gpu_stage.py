"""A stage whose parts end in every way there is, for `test_gpu`; what each process runs is noted in a file."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from bench.gpu import stage
from bench.gpu.stage import Part, Setup, Skipped


def parts(setup: Setup) -> list[Part]:
    asked = (setup.folder / "parts.txt").read_text().split()
    return [Part(name, lambda name=name: _run(name, setup.folder)) for name in asked]


def _run(name: str, folder: Path) -> str:
    with open(folder / "ran.txt", "a") as file:
        file.write(f"{name} {os.getpid()}\n")
    return ACTIONS[name.rstrip("0123456789")]()


def _fail() -> str:
    raise ValueError("it went wrong\nin more than one line")


def _skip() -> str:
    raise Skipped("there is no such tool")


def _die() -> str:
    os._exit(3)


def _sleep() -> str:
    time.sleep(60)
    return "woke up"


def _ignore() -> str:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return _sleep()


def _poison() -> str:
    stage.device_answers = lambda: False
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


ACTIONS: dict[str, Callable[[], str]] = {
    "good": lambda: "42",
    "fails": _fail,
    "skips": _skip,
    "dies": _die,
    "sleeps": _sleep,
    "ignores": _ignore,
    "poisons": _poison,
}


class Unlucky(Exception):
    """Cannot be sent from process to process: it is made anew of its text alone."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")


def raise_unlucky() -> None:
    raise Unlucky("the compiler", "no such pass")
