"""The authors' text files: a line for each image or class, first its number or name, then what is known of it."""

from __future__ import annotations

from pathlib import Path


def read_lines(path: Path) -> list[tuple[str, str]]:
    """The lines that are not blank, each with where it stands: ``[("data/variants.txt:1", "707-320")]``."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing.")
    with path.open(encoding="utf-8-sig") as file:
        return [(f"{path}:{number}", line.strip()) for number, line in enumerate(file, start=1) if line.strip()]


def read_keyed(path: Path) -> dict[str, str]:
    """The rest of each line by its first word, in the order of the file: ``{"0481847": "F/A-18"}``."""
    rows: dict[str, str] = {}
    for place, line in read_lines(path):
        key, *rest = line.split(maxsplit=1)  # the rest may hold spaces
        if not rest:
            raise ValueError(f"{place}: expected two entries, divided by a space; got {line!r}.")
        if key in rows:
            raise ValueError(f"{place}: {key} has been there before, with {rows[key]!r}; now with {rest[0]!r}.")
        rows[key] = rest[0]
    return rows
