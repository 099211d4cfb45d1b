"""One stage in this process, part after part: `python -m bench.gpu.stage MODULE FOLDER CALL`, as `command` starts it.

A part that fails leaves its traceback in the log, and the next part begins. Where the GPU refuses everything after a
failure, as it does after an illegal access, the process ends and `command` starts another one for the remaining parts.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from .progress import Progress

RESTART = 75  # exit status: the remaining parts need another process

NEEDS_GPU = "needs a GPU"


class Skipped(Exception):
    """A part cannot run here; the message says why."""


@dataclass(frozen=True)
class Part:
    """A part of a stage.

    Attributes:
        name: unique in its stage.
        run: prints details into the log and returns the result in one line; raises `Skipped` where it cannot run.
    """

    name: str
    run: Callable[[], str]


@dataclass(frozen=True)
class Setup:
    """Where everything runs, and where results go.

    Attributes:
        device: the GPU; "cpu" where there is none, so that small cases stand in and kernels are interpreted.
        folder: of all results.
    """

    device: torch.device
    folder: Path

    @property
    def is_gpu(self) -> bool:
        """Whether there is a GPU."""
        return self.device.type == "cuda"

    def require_gpu(self) -> None:
        """Raise `Skipped` without a GPU."""
        if not self.is_gpu:
            raise Skipped(NEEDS_GPU)

    @property
    def results(self) -> Path:
        """The file of results in the ordinary format, named after the device."""
        from ..measure.compare import device_name

        return self.folder / f"{re.sub(r'[^a-z0-9]+', '-', device_name(self.device).lower())}.csv"


def setup_here(folder: Path) -> Setup:
    """The GPU if there is one; else the CPU, with Triton's interpreter in place of its compiler."""
    if torch.cuda.is_available():
        return Setup(torch.device("cuda", 0), folder)
    os.environ["TRITON_INTERPRET"] = "1"
    from ..count import interpreter

    interpreter.behave_like_a_gpu()
    return Setup(torch.device("cpu"), folder)


def run(stage: str, parts: list[Part], progress: Progress) -> int:
    """Run the parts that are left; returns the exit status, 0 where each has had its turn."""
    by_name = {part.name: part for part in parts}
    for name in progress.left(stage, by_name):
        print(f"\n=== {stage}: {name}", flush=True)
        progress.begin(stage, name)
        outcome = "failed"
        try:
            text = by_name[name].run()
            outcome = "done"
        except Skipped as reason:
            outcome, text = "skipped", str(reason)
        except KeyboardInterrupt:
            traceback.print_exc()
            progress.end(stage, name, "stopped", "it took longer than its limit")
            return RESTART
        except BaseException as error:  # whatever it is, the next part may succeed
            traceback.print_exc()
            text = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        print(f"--- {outcome}: {text}", flush=True)
        progress.end(stage, name, outcome, text)
        gc.collect()
        if outcome == "failed" and not device_answers():
            return RESTART
    if all(entry.outcome == "done" for part, entry in progress.latest(stage).items() if part in by_name):
        progress.end(stage, "", "done", seconds=0)
    return 0


def apart(jobs: Sequence[tuple[Any, ...]], processes: int = 1) -> list[Any]:
    """Call functions in new processes: each job is a function and its arguments.

    Returns:
        What each returned; where it raised an exception, a `Trouble` with the traceback, which is printed.
    """
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        runs = [pool.submit(_guarded, *job) for job in jobs]
        found = [run.result() for run in runs]
    print(*(one.traceback for one in found if isinstance(one, Trouble)), sep="\n", flush=True)
    return found


@dataclass(frozen=True)
class Trouble:
    """An exception as text: some of PyTorch's cannot be sent from process to process."""

    traceback: str

    def __str__(self) -> str:
        return self.traceback.strip().splitlines()[-1][:200]


def _guarded(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except BaseException:
        return Trouble(traceback.format_exc())


def device_answers() -> bool:
    """Whether the GPU, if there is one, still computes for this process."""
    if not torch.cuda.is_available():
        return True
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return float(torch.ones(8, device="cuda").sum()) == 8
    except RuntimeError:
        return False


def main(arguments: list[str]) -> int:
    """Run a stage; returns the exit status."""
    module, folder, call = arguments
    faulthandler.register(signal.SIGUSR1)  # before a process is stopped, it shows where it is
    setup = setup_here(Path(folder))
    parts = import_module(module).parts(setup)
    return run(module.rpartition(".")[2], parts, Progress(setup.folder, int(call)))


if __name__ == "__main__":
    # As `bench.gpu.stage`, so that the stages raise the same `Skipped` as this module catches.
    sys.exit(import_module("bench.gpu.stage").main(sys.argv[1:]))
