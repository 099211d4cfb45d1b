"""The outcome of each part, in a file that grows by a line of JSON: a call that is stopped loses nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

OUTCOMES = ("begun", "done", "skipped", "stopped", "failed")


@dataclass(frozen=True)
class Entry:
    """A line of the file.

    Attributes:
        call: start of the call of `python -m bench gpu` that wrote it, in seconds since 1970.
        stage, part: their names; a part "" is the stage as a whole.
        outcome: one of `OUTCOMES`.
        text: the result in one line, or why there is none.
        seconds: how long the part took; 0 where it begins.
    """

    call: int
    stage: str
    part: str
    outcome: str
    text: str = ""
    seconds: float = 0.0


class Progress:
    """The file of a folder, as one call reads and continues it."""

    def __init__(self, folder: Path, call: int) -> None:
        self.path = folder / "progress.jsonl"
        self.call = call
        self._started = time.monotonic()

    def entries(self) -> list[Entry]:
        """All complete lines: a process that was killed may have left half a line."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        entries = []
        for line in lines:
            try:
                entries.append(Entry(**json.loads(line)))
            except (json.JSONDecodeError, TypeError):
                continue
        return entries

    def begin(self, stage: str, part: str) -> None:
        """Note that a part begins."""
        self._started = time.monotonic()
        self._append(Entry(self.call, stage, part, "begun"))

    def end(self, stage: str, part: str, outcome: str, text: str = "", seconds: float | None = None) -> None:
        """Note how a part ended; by default it took the time since the last `begin`."""
        seconds = time.monotonic() - self._started if seconds is None else seconds
        self._append(Entry(self.call, stage, part, outcome, text, round(seconds, 1)))

    def latest(self, stage: str) -> dict[str, Entry]:
        """The last entry of each part of a stage, in the order in which the parts first began."""
        return {entry.part: entry for entry in self.entries() if entry.stage == stage}

    def running(self, stage: str) -> str | None:
        """The part of a stage that has begun in this call and has not ended."""
        begun = [part for part, entry in self.latest(stage).items() if entry.outcome == "begun" and self._is_now(entry)]
        return begun[-1] if begun else None

    def left(self, stage: str, parts: Iterable[str]) -> list[str]:
        """The parts to run in this call: new ones first, then those that an earlier call left undone."""
        latest = self.latest(stage)
        parts = list(parts)
        new = [part for part in parts if part not in latest]
        again = [
            part
            for part in parts
            if part in latest and latest[part].outcome != "done" and not self._is_now(latest[part])
        ]
        return new + again

    def ended_in_this_call(self, stage: str) -> int:
        """How many parts of a stage this call has ended, in whatever way."""
        return sum(entry.outcome != "begun" and self._is_now(entry) for entry in self.latest(stage).values())

    def _is_now(self, entry: Entry) -> bool:
        return entry.call == self.call

    def _append(self, entry: Entry) -> None:
        is_torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        with open(self.path, "a", encoding="utf-8") as file:
            file.write("\n" * is_torn + json.dumps(asdict(entry)) + "\n")
