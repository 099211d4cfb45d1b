"""The one format of all results: a CSV file with a row per number and a column per fact about it."""

from __future__ import annotations

import csv
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd  # imported where it is used: a machine that only measures may be without it

FOLDER = Path(__file__).parent / "results"  # those of the repository

COLUMNS: dict[str, type] = {
    # The features
    "data_set": str,  # "CUB"; "" for features of no real network
    "network": str,  # "ResNet50"
    "pixels": int,  # side of an image
    "samples": int,  # B
    "channels": int,  # N
    "groups": str,  # "152x10 + 48x11": 152 classes of 10 channels, then 48 of 11
    "side": int,  # height and width of a map, in positions
    "dtype": str,
    "layout": str,  # "contiguous" or "channels_last"
    # The computation
    "provider": str,  # "ours", "official", "plain", one of your own; "copy" for a copy of the features
    "backend": str,  # of ours: "eager" or "triton"
    "compiled": bool,  # by torch.compile
    "kernel": str,  # one alone, "whole_maps.forward"; "" for all that the mode takes
    "mode": str,  # "forward", "backward" or "both"; "training step" of a whole network
    # Where and when
    "device": str,  # "AMD EPYC", "H200", "sm_90"; "GPU" for what holds on any
    "threads": int,  # of a CPU; 0 on a GPU
    "busy": int,  # other processes that spin on the CPU's cores meanwhile
    "python": str,
    "torch": str,
    "triton": str,
    "commit": str,  # of this repository; "+" where files had been changed since
    "date": str,  # year-month-day
    # The number
    "metric": str,  # a key of METRICS
    "value": float,  # the median
    "unit": str,
    "low": float,  # the quartiles
    "high": float,
    "repeats": int,
    "known": str,  # one of KNOWN
}

FEATURES = ["data_set", "network", "pixels", "samples", "channels", "groups", "side", "dtype", "layout"]
PROVIDER = ["provider", "backend", "compiled"]
DEVICE = ["device", "threads", "busy"]
VERSIONS = ["python", "torch", "triton"]

METRICS = {  # and their units
    "wall": "ms",  # from the call until the result is there, on the host's clock
    "host": "ms",  # until the call returns, on the host's clock, with a GPU that has nothing else to do
    "operator": "ms",  # on a GPU, between events around the call: launches and the gaps between them
    "kernel": "ms",  # on a GPU, of a replayed CUDA graph: no host in between
    "ratio": "times ours",  # the same time of the provider, divided by ours in the same turn
    "peak": "bytes",  # the most memory held at a time, beyond what was there before
    "bandwidth": "GB/s",  # the least bytes to move, by time
    "error": "of the gradient",  # ‖dF − true dF‖ / ‖true dF‖, from the oracle in float64
    "wrong": "of the gradient",  # likewise, of a provider that computes something else, and is not timed
    "traffic": "bytes",  # read from and written to a GPU's memory
    "launches": "kernels",
    "issue slots": "warp instructions",  # of all warps, in compiled code, loops times their trips
    "registers": "per thread",
    "stack": "bytes per thread",
    "spills": "registers",
    "shared": "bytes per program",
    "memory throughput": "of the peak",  # of a GPU's memory, as its counters say, like the next
    "issue activity": "of the peak",
    "first cache hits": "of the loads",  # sectors that loads found in the cache of their SM
    "second cache hits": "of the reads",
    "load width": "bytes",  # of one access to the features
    "store width": "bytes",  # of one access to their gradient
    "memory time": "µs",  # traffic by the bandwidth that a copy reaches
    "issue time": "µs",  # issue slots, four per clock and SM
    "modelled time": "µs",  # the larger of the two, and launches at a stated cost
}

KNOWN = ("measured", "counted", "modelled")  # on the device; without it, from code; by a model


def result(metric: str, value: float | Sequence[float], known: str, **facts: Any) -> dict[str, Any]:
    """A row: one number, or the median and quartiles of several, with the facts about it, and this run's versions.

    Args:
        metric: a key of `METRICS`.
        value: the number, or one per repeat.
        known: one of `KNOWN`.
        facts: further columns; those left out are empty.
    """
    numbers = list(value) if isinstance(value, Sequence) else [value]
    low, _, high = statistics.quantiles(numbers, n=4, method="inclusive") if len(numbers) > 1 else 3 * numbers
    number = {"value": statistics.median(numbers), "low": low, "high": high, "repeats": len(numbers)}
    empty = {name: kind() for name, kind in COLUMNS.items()}
    return empty | run_facts() | facts | number | {"metric": metric, "unit": METRICS.get(metric), "known": known}


def frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of `result` as a table; ValueError for a column, metric or number that makes no sense."""
    import pandas as pd

    table = pd.DataFrame(list(rows), columns=None if rows else list(COLUMNS))
    return _checked(table).astype(COLUMNS)


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    """The table itself; ValueError for a column, metric or number that makes no sense."""
    if list(table) != list(COLUMNS):
        raise ValueError(f"results must have the columns {','.join(COLUMNS)}; got {','.join(table)}.")
    for name, known in (("metric", METRICS), ("known", KNOWN)):
        if unknown := set(table[name]) - set(known):
            raise ValueError(f"{name} must be one of {', '.join(known)}; got {', '.join(sorted(unknown))}.")
    is_ordered = (table["low"] <= table["value"]) & (table["value"] <= table["high"])  # false for NaN
    if not is_ordered.all():
        worst = table[~is_ordered].iloc[0]
        raise ValueError(f"low ≤ value ≤ high must hold; got {worst.low}, {worst.value}, {worst.high}.")
    return table


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows of `result` to the end of a file, which need not be there."""
    is_new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(COLUMNS), lineterminator="\n")
        if is_new:
            writer.writeheader()
        for row in rows:
            writer.writerow({**row, **{name: _text(float(row[name])) for name in ("value", "low", "high")}})


def write(path: Path, table: pd.DataFrame) -> None:
    """Write a file of results, in place of one that is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = {name: table[name].map(_text) for name in ("value", "low", "high")}
    table.assign(**numbers).to_csv(path, index=False, columns=list(COLUMNS), lineterminator="\n")


def _text(number: float) -> str:
    return str(int(number)) if number.is_integer() else f"{number:.6g}"


def update(path: Path, table: pd.DataFrame) -> None:
    """Add results to a file, in place of all that it has for the same features and device: ratios are of one run."""
    import pandas as pd

    if path.exists():
        same = [*FEATURES, *DEVICE, "known"]
        older = read(path)
        is_replaced = pd.MultiIndex.from_frame(older[same]).isin(pd.MultiIndex.from_frame(table[same]))
        table = pd.concat([older[~is_replaced], table], ignore_index=True)
    write(path, table)


def read(path: Path) -> pd.DataFrame:
    """Read a file of results; ValueError names a file that has something else."""
    import pandas as pd

    try:
        return _checked(pd.read_csv(path, keep_default_na=False, dtype=COLUMNS))
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path}: {error}") from error


def read_folder(folder: Path) -> pd.DataFrame:
    """All results of a folder, file by file; SystemExit says which file cannot be read, or that there is none."""
    import pandas as pd

    paths = sorted(folder.glob("*.csv"))
    if not paths:
        raise SystemExit(
            f"{folder} must be a folder with results as CSV files; it has none. "
            f"`python -m bench run --output {folder}` writes them."
        )
    try:
        return pd.concat(map(read, paths), ignore_index=True)
    except ValueError as error:
        raise SystemExit(str(error)) from error


def where(table: pd.DataFrame, **facts: Any) -> pd.DataFrame:
    """The rows with these facts; a list stands for any of its members."""
    for name, fact in facts.items():
        table = table[table[name].isin(fact if isinstance(fact, list) else [fact])]
    return table


@cache
def run_facts() -> dict[str, str]:
    """The columns that describe this run: versions, commit and date."""
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = ""
    return {
        "python": platform.python_version(),
        "torch": version("torch"),
        "triton": triton,
        "commit": _commit(),
        "date": date.today().isoformat(),
    }


def versions() -> str:
    """The versions of this run, as text."""
    facts = run_facts()
    return f"Python {facts['python']}, torch {facts['torch']}, triton {facts['triton'] or 'absent'}"


def _commit() -> str:
    """The commit that is checked out, with a "+" for changes since, results apart.

    Without git it is the variable BENCH_COMMIT of the environment, else "unknown".
    """

    def git(*arguments: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(exclude,top)bench/results")
        return git("rev-parse", "--short=10", "HEAD") + "+" * bool(changes)
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("BENCH_COMMIT", "unknown")
