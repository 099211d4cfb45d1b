"""What a run leaves to read: ``metrics.csv``, ``metrics.json`` and, where it is asked for, TensorBoard's events."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from . import distributed
from .environment import environment
from .trainer import Row, Run


def without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for JSON, which knows no NaN: the overlap of classes with one channel is None there."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}


def write_metrics(folder: Path, run: Run) -> None:
    """``metrics.csv``, a row an epoch, and ``metrics.json``, the same with the settings and what it ran on."""
    with open(folder / "metrics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, run.rows[0])
        writer.writeheader()
        writer.writerows(run.rows)
    device = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else str(run.device)
    ran_on = {**environment(), "device": device, "processes": distributed.size()}
    epochs = [without_nan(row) for row in run.rows]
    content = {"settings": asdict(run.settings), "environment": ran_on, "epochs": epochs}
    (folder / "metrics.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


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
