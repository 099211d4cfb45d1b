"""The one format of all results: a CSV file with a row for each number."""

from __future__ import annotations

import csv
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from datetime import date
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path

import torch

SOURCES = ("measured", "counted", "compiled", "modelled")
METRICS = {  # and their units
    "wall": "ms",  # from the call until the result is there, as the host's clock has it
    "operator": "ms",  # on a GPU, between events around the call: launches and the gaps between them
    "kernel": "ms",  # on a GPU, of a replayed CUDA graph: no host in between
    "ratio": "times ours",  # the same time of the provider, divided by ours in the same turn
    "peak": "bytes",  # the most memory held at a time, beyond what was there before
    "bandwidth": "GB/s",  # the least bytes that have to be moved, by time
    "error": "of the gradient",  # ‖dF − true dF‖ / ‖true dF‖, from the oracle in float64
    "wrong": "of the gradient",  # likewise, of a provider who computes something else, and is not timed
    "traffic": "bytes",  # read from and written to a GPU's memory
    "launches": "kernels",
    "registers": "a thread",
    "stack": "bytes a thread",
    "spills": "registers",
    "shared": "bytes a program",
    "occupancy": "of the warps",
    "load width": "bytes",  # of one access to the features
    "store width": "bytes",  # of one access to their gradient
    "roofline": "ms",  # traffic by published bandwidth, and launches at a stated cost
}


@dataclass(frozen=True)
class Result:
    """One number and everything one has to know to read it.

    Attributes:
        provider: what was measured, for example "official" or "ours, Triton".
        shape: of the features and their groups, as `bench.cases.Case.shape` writes it; "" where there is none.
        dtype: of the features: "float32", "bfloat16".
        layout: "contiguous" or "channels_last".
        mode: "forward", "backward" or "both"; "copy" of a copy of the features.
        metric: a key of `METRICS`, which has the unit.
        value: the median where there are several samples.
        low, high: the quartiles; equal to the value where there is one sample.
        samples: how many there were.
        source: one of `SOURCES`: timed or weighed on the device, counted without it, read off code that was compiled
            for it, or a model of it.
        device: what it is true for, with the number of threads on a CPU.
        versions: of Python, PyTorch and Triton.
        commit: of this repository; "+" where files had been changed since.
        date: year-month-day.
    """

    provider: str
    shape: str
    dtype: str
    layout: str
    mode: str
    metric: str
    value: float
    low: float
    high: float
    samples: int
    source: str
    device: str
    versions: str
    commit: str
    date: str

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}; got {self.metric!r}.")
        if self.source not in SOURCES:
            raise ValueError(f"source must be one of {', '.join(SOURCES)}; got {self.source!r}.")
        if not self.low <= self.value <= self.high:  # false for NaN as well
            raise ValueError(f"low ≤ value ≤ high must hold; got {self.low}, {self.value}, {self.high}.")


FOLDER = Path(__file__).parent / "results"  # those of the repository
COLUMNS = [column.name for column in fields(Result)]


def write(path: Path, results: Iterable[Result]) -> None:
    """Write a file of results, in place of one that is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for result in results:
            writer.writerow([_text(cell) for cell in astuple(result)])


def _text(cell: str | float) -> str:
    if isinstance(cell, str):
        return cell
    return str(int(cell)) if float(cell).is_integer() else f"{cell:.6g}"


def update(path: Path, results: Iterable[Result]) -> None:
    """Add results to a file, in place of all that it has for the same features and device: ratios are of one run."""

    def about(result: Result) -> tuple[str, ...]:
        return result.shape, result.dtype, result.layout, result.source, result.device

    newer = list(results)
    replaced = set(map(about, newer))
    older = read(path) if path.exists() else []
    write(path, [result for result in older if about(result) not in replaced] + newer)


def read(path: Path) -> list[Result]:
    """Read a file of results; ValueError names the line that is none."""
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        if (header := next(reader, [])) != COLUMNS:
            raise ValueError(f"{path} must begin with the columns {','.join(COLUMNS)}; got {','.join(header)}.")
        results = []
        for cells in reader:
            try:
                row = dict(zip(COLUMNS, cells, strict=True))
                numbers = {name: float(row[name]) for name in ("value", "low", "high")}
                results.append(Result(**(row | numbers | {"samples": int(row["samples"])})))  # type: ignore[arg-type]
            except ValueError as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    return results


def read_folder(folder: Path) -> list[Result]:
    """All results of a folder, file by file; SystemExit says what is wrong with one that cannot be read or has none."""
    try:
        rows = [row for path in sorted(folder.glob("*.csv")) for row in read(path)]
    except ValueError as error:
        raise SystemExit(str(error)) from error
    if not rows:
        raise SystemExit(
            f"{folder} must be a folder with results as CSV files; it has none. "
            f"`python -m bench run --output {folder}` writes them."
        )
    return rows


def features_bytes(row: Result) -> int:
    """|F|, the bytes of the features that a result is about."""
    return prod(map(int, row.shape.split()[0].split("x"))) * getattr(torch, row.dtype).itemsize


def ours_in(rows: Iterable[Result]) -> str:
    """Which of ours the others are compared with, given the rows of a device: the kernels where they can run."""
    return "ours, Triton" if any(row.provider == "ours, Triton" for row in rows) else "ours, eager"


@cache
def versions() -> str:
    """What is running: Python, PyTorch and, where it is installed, Triton."""
    try:
        triton = f", triton {version('triton')}"
    except PackageNotFoundError:
        triton = ""
    return f"Python {platform.python_version()}, torch {torch.__version__}{triton}"


@cache
def commit() -> str:
    """The commit that is checked out, with a "+" for changes since, results apart; "unknown" without git."""

    def git(*arguments: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(exclude,top)bench/results")
        return git("rev-parse", "--short=10", "HEAD") + "+" * bool(changes)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def today() -> str:
    """The date, year-month-day."""
    return date.today().isoformat()
