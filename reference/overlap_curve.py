"""The overlap of the channels over the training of runs: ``python -m reference.overlap_curve --help``."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt

from .panels import save

COLUMN = "test_overlap"


def main(arguments: list[str] | None = None) -> int:
    """Draw the runs in some folders; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m reference.overlap_curve",
        description="Draw how much the channels of a class overlap on the test images, epoch by epoch.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="FOLDER", help="of a run of reference.train")
    parser.add_argument("--output", type=Path, default=Path("runs/overlap.png"), metavar="FILE", help="the figure")
    options = parser.parse_args(arguments)
    try:
        draw_overlap({str(folder): read_overlap(folder) for folder in options.runs}, options.output)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(options.output)
    return 0


def read_overlap(folder: Path) -> list[float]:
    """The overlap after each epoch of the run in a folder, from its ``metrics.csv``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no epoch, or no overlap.
    """
    path = folder / "metrics.csv"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; it is written after the first epoch of a run.")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or COLUMN not in rows[0]:
        raise ValueError(
            f"{path} must have a column {COLUMN}, a row an epoch; it has {', '.join(rows[0] if rows else [])}."
        )
    return [float(row[COLUMN]) for row in rows]


def draw_overlap(runs: Mapping[str, Sequence[float]], path: Path) -> None:
    """A line for each run.

    Args:
        runs: by the name of the run, the overlap after each epoch, from 0 to 1; NaN where there was none.
        path: of the PNG file.
    """
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for (name, overlaps), line in zip(runs.items(), cycle(("-", "--", "-.", ":")), strict=False):
        marker = "o" if len(overlaps) == 1 else None  # a single point is no line
        axis.plot(range(1, len(overlaps) + 1), overlaps, line, label=name, linewidth=1.8, marker=marker)
    axis.set_title("Overlap of a class's channels on the test set\n", fontsize=11, loc="left", weight="bold")
    axis.text(
        0,
        1.03,
        "IoU of their top tenths of the positions, mean over pairs; lower is more diverse",
        transform=axis.transAxes,
        fontsize=8.5,
        color="#444444",
    )
    axis.set_xlabel("epoch")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", frameon=False)
    save(figure, path)


if __name__ == "__main__":
    sys.exit(main())
