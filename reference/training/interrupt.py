"""Ctrl-C between two steps, never within one, and in the process that trains alone."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Note the first Ctrl-C instead of raising KeyboardInterrupt; the second one raises at once.

    Yields a function that returns whether there was one. Where Ctrl-C does not raise KeyboardInterrupt anyway, nothing
    is changed.
    """
    noted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        noted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, note)
    except ValueError:  # only the main thread can set a handler, and only it is interrupted
        pass
    try:
        yield lambda: noted
    finally:
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def ignore_interrupt(worker: int) -> None:
    """Leave Ctrl-C, which reaches every process, to the one that trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
