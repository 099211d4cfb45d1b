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
from torch import Tensor

from ..channels.explanation import scaled_maps
from ..datasets import Labelled
from ..datasets.images import examples
from ..model.network import MCNetwork
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


def tensorboard(
    folder: Path, pictures: Callable[[], Mapping[str, Tensor]] = dict[str, Tensor]
) -> Callable[[Row], None]:
    """A function that adds a row to TensorBoard's events, in ``folder/tensorboard``.

    Args:
        folder: of the run.
        pictures: called with each row, for images in [0, 1] by their names.

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
        for name, picture in pictures().items():
            writer.add_image(name, picture, int(row["epoch"]))
        writer.flush()

    return add


@torch.inference_mode()
def channel_pictures(network: MCNetwork, dataset: Labelled, number: int) -> dict[str, Tensor]:
    """The first images of so many classes, each with the maps of its class's channels and of their maximum at its side.

    Returns:
        By the name of the class, (1, H, W · (ξ + 2)) in [0, 1]; all maps of an image have one scale.
    """
    was_training = network.training
    network.eval()
    drawn = {}
    for index in examples(dataset, number) if number else ():
        image, label = dataset[index]
        of_class = torch.tensor([label], device=next(network.parameters()).device)
        features = network.extract(image[None].to(of_class.device))
        maps = scaled_maps(features, network.groups, of_class, (image.shape[1], image.shape[2]))[0].float().cpu()
        grey = image.mean(dim=0)
        photo = (grey - grey.amin()) / (grey.amax() - grey.amin()).clamp(min=1e-12)
        own = [*maps[: network.groups.sizes[label]], maps[-1]]  # between them is what fills up a small group
        drawn[f"channels/{dataset.classes[label]}"] = torch.cat([photo, *own], dim=1)[None]
    network.train(was_training)
    return drawn
