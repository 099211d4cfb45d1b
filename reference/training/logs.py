"""The files of a run for its readers: ``metrics.csv``, ``metrics.json`` and TensorBoard's events."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from . import distributed
from .checkpoint import COLUMNS, Row
from .environment import environment
from .run_folder import METRICS, write_whole

if TYPE_CHECKING:
    from .trainer import Run


def without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for JSON, which has no NaN: the overlap of classes with one channel is None there."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}


def write_metrics(folder: Path, run: Run) -> None:
    """``metrics.csv``, a row per epoch, and ``metrics.json``, the same with the settings and the environment."""
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, COLUMNS)
    writer.writeheader()
    writer.writerows(run.rows)
    device = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else str(run.device)
    content = {
        "settings": asdict(run.settings),
        "environment": {**environment(), "device": device, "processes": distributed.size()},
        "epochs": [without_nan(row) for row in run.rows],
    }
    texts = {"metrics.csv": table.getvalue(), METRICS: json.dumps(content, indent=1, allow_nan=False) + "\n"}
    for name, text in texts.items():
        write_whole(folder / name, lambda file, text=text: file.write(text.encode()))


def tensorboard(folder: Path) -> Callable[[Row], None]:
    """A function that adds a row to TensorBoard's events, in ``folder/tensorboard``.

    Raises:
        ValueError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            "--tensorboard needs TensorBoard, which is not installed: pip install tensorboard. Without it, all that it "
            f"would show is in {folder / 'metrics.csv'}."
        ) from error
    writer = SummaryWriter(str(folder / "tensorboard"))

    def add(row: Row) -> None:
        for name, value in row.items():
            if name != "epoch":
                writer.add_scalar(name, value, int(row["epoch"]))
        writer.flush()

    return add
