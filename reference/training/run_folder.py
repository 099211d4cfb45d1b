"""The folder of a run: one process at a time writes into it, and each of its files is whole at every moment."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

CHECKPOINT = "checkpoint.pt"
BEST = "best.pt"
METRICS = "metrics.json"

_UNFINISHED = ".tmp"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes, and remove the unfinished files of a process that was killed.

    The system releases the lock when the process ends, however it ends.

    Raises:
        ValueError: another process has locked the folder.
    """
    with open(folder / ".lock", "a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # flock would be inherited by data-loader workers
        except (BlockingIOError, PermissionError):
            raise ValueError(
                f"another process trains in {folder}; wait for its end, or choose another folder."
            ) from None
        for left in folder.glob(f"*{_UNFINISHED}"):
            left.unlink()
        yield


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file so that at every moment, also in a power cut, ``path`` is the old file or the new one.

    Raises:
        OSError: the file cannot be written; the old one is kept.
    """
    unfinished = path.with_name(path.name + _UNFINISHED)
    try:
        with open(unfinished, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except (OSError, RuntimeError) as error:
        reason = error.__context__ if isinstance(error, RuntimeError) else error  # torch.save hides the system's error
        if not isinstance(reason, OSError):
            raise
        kept = "; the previous one is kept" if path.exists() else ""
        raise OSError(f"{path} cannot be written: {reason.strerror}. Make room there{kept}.") from error
    finally:
        unfinished.unlink(missing_ok=True)
