"""The overlap of the channels over the training of runs: ``python -m reference overlap-curve --help``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt

from ..commands import OverlapCurve
from .pictures import save
from .style import CROSS_ENTROPY, MC_LOSS, STYLES

COLUMN = "test_overlap"

# Of Okabe and Ito, too: for further runs by the same loss.
_OTHER_COLOURS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


class Overlap(NamedTuple):
    """The overlap of the channels over the training of one run.

    Attributes:
        loss: what it was trained by, one of the two that are compared.
        epochs: those after which it was measured.
        overlaps: after each of them, from 0 to 1; NaN where there was none.
    """

    loss: str
    epochs: Sequence[int]
    overlaps: Sequence[float]


def main(options: OverlapCurve) -> None:
    """Draw the runs in some folders."""
    draw_overlap({folder: read_overlap(folder) for folder in options.runs}, options.output)
    print(options.output)


def read_overlap(folder: Path) -> Overlap:
    """The loss and the overlap of the run in a folder, from its ``metrics.json``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no loss or no overlap.
    """
    path = folder / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; it is written after the first epoch of a run.")
    try:
        content = json.loads(path.read_text())
        loss = MC_LOSS if any(content["settings"]["weights"]) else CROSS_ENTROPY
        rows = content["epochs"]
        epochs, values = [row["epoch"] for row in rows], [row[COLUMN] for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} must be of a run of reference train, with the weights of its loss and {COLUMN} of each epoch; "
            f"it fails at {error}."
        ) from error
    return Overlap(loss, epochs, [math.nan if value is None else value for value in values])  # JSON knows no NaN


def draw_overlap(runs: Mapping[Path, Overlap], path: Path) -> None:
    """A line for each run, labelled by its loss, and by its folder too where several runs have that loss.

    Args:
        runs: by their folders.
        path: of the PNG file.
    """
    losses = [run.loss for run in runs.values()]
    colours = cycle(_OTHER_COLOURS)
    drawn = set()
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for folder, (loss, epochs, overlaps) in runs.items():
        label = f"{loss} ({folder})" if losses.count(loss) > 1 else loss
        style = {**STYLES[loss], "color": next(colours)} if loss in drawn else STYLES[loss]
        drawn.add(loss)
        marker = "o" if len(overlaps) == 1 else None  # a single point is no line
        axis.plot(epochs, overlaps, label=label, linewidth=1.8, marker=marker, **style)
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
