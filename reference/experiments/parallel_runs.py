"""Several runs at a time, each in a process of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Hashable, Mapping
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from threading import RLock, Thread
from typing import TypeVar

from tqdm import tqdm

from ..training.build import build_network, load_data
from ..training.checkpoint import Row, load_same_run
from ..training.distributed import choose_device
from ..training.run_folder import CHECKPOINT
from ..training.settings import Settings
from ..training.trainer import DivergedError, train

Key = TypeVar("Key", bound=Hashable)


def train_several(
    jobs: Mapping[Key, tuple[Settings, Path]],
    processes: int,
    *,
    resume: bool = False,
    device: str = "cpu",
    workers: int = 0,
) -> dict[Key, list[Row]]:
    """Train every job and show one progress bar for all.

    Args:
        jobs: the settings of each run and the folder that gets it.
        processes: runs at the same time.
        resume: go on with the runs that are in their folders, which are of the same settings and images; one that is
            finished is not trained again.
        device: see `choose_device`.
        workers: processes that read images ahead, for each run.

    Returns:
        The rows of each run, one per evaluation.

    Raises:
        DivergedError: the loss of a run is infinite or no number; the message says which.
        ChildProcessError: a process was killed.
        ValueError, FileNotFoundError: as in `load_data`, `build_network` and `train`.
    """
    finished = {key: rows for key, job in jobs.items() if resume and (rows := finished_rows(*job))}
    left = {key: job for key, job in jobs.items() if key not in finished}
    trained = _train_all(left, processes, resume, device, workers) if left else {}
    return {key: finished[key] if key in finished else trained[key] for key in jobs}


def of_run(rows: list[Row]) -> Row:
    """A run in one row: its last epoch, and the seconds of all of them."""
    return {**rows[-1], "seconds": sum(row["seconds"] for row in rows)}


def finished_rows(settings: Settings, folder: Path) -> list[Row] | None:
    """The rows of a run that has nothing left to train."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    train_set, _ = load_data(settings)
    rows: list[Row] = load_same_run(path, settings, len(train_set), train_set.classes).rows
    return rows if rows and rows[-1]["epoch"] == settings.epochs else None


def _train_all(
    jobs: Mapping[Key, tuple[Settings, Path]], processes: int, resume: bool, device: str, workers: int
) -> dict[Key, list[Row]]:
    context = get_context("spawn")
    epochs: SimpleQueue[tuple[int, float]] = context.SimpleQueue()
    total = sum(settings.epochs for settings, _ in jobs.values())
    with (
        ProcessPoolExecutor(min(processes, len(jobs)), context, _prepare, (epochs,)) as executor,
        tqdm(total=total, unit="epoch", desc=f"training {len(jobs)} networks") as bar,
    ):
        futures = {key: executor.submit(_train_one, *job, resume, device, workers) for key, job in jobs.items()}
        pending = set(futures.values())
        try:
            while pending:
                done, pending = wait(pending, timeout=0.2)
                for future in done:
                    future.result()  # raises what the run raised
                while not epochs.empty():
                    finished, loss = epochs.get()
                    bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
                    bar.update(finished)
        except BaseException as error:
            executor.shutdown(wait=False, cancel_futures=True)
            for process in active_children():  # or they would train on; a checkpoint is whole at every moment
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise ChildProcessError(
                    "a process that trained was killed, as for want of memory, of which --processes 1 needs the least."
                ) from error
            raise
    return {key: future.result() for key, future in futures.items()}


_epochs: SimpleQueue[tuple[int, float]]  # of a process that trains: epochs that are finished, and their mean loss


def _prepare(epochs: SimpleQueue[tuple[int, float]]) -> None:
    global _epochs
    _epochs = epochs  # a queue reaches a process only when that starts
    tqdm.set_lock(RLock())  # its own is shared among processes, and would outlive one that ends by os._exit
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # Ctrl-C reaches every process; the first one reports it
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the first one was killed: its run could not be resumed while this one trains."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _train_one(settings: Settings, folder: Path, resume: bool, device: str, workers: int) -> list[Row]:
    resume = resume and (folder / CHECKPOINT).exists()
    train_set, test_set = load_data(settings)
    # A run that goes on has its weights already.
    network = build_network(replace(settings, backbone_weights="") if resume else settings, len(train_set.classes))
    done = 0

    def count(row: Row) -> None:
        nonlocal done
        _epochs.put((int(row["epoch"]) - done, row["train_loss"]))
        done = int(row["epoch"])

    try:
        rows = train(
            network.to(choose_device(device)),
            train_set,
            test_set,
            settings,
            folder,
            resume=resume,
            workers=workers,
            progress=False,
            on_epoch=count,
        )
    except DivergedError as error:
        raise DivergedError(f"{folder}: {error}") from error
    _epochs.put((settings.epochs - done, rows[-1]["train_loss"]))  # those of an earlier time
    return rows
