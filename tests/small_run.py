"""A training run that takes a second, for the tests: images in memory, their network and their settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from reference.model.network import MCNetwork
from reference.training.build import build_network
from reference.training.settings import Settings
from reference.training.trainer import Run

CLASSES = [f"bird {number}" for number in range(10)]
IMAGE_SHAPE = (3, 24, 32)

SETTINGS = Settings(
    dataset="folder",
    transform="from_scratch",
    backbone="small",
    pooling="max",
    channels_per_class=2,
    weights=(0.5, 3.0),
    epochs=2,
    evaluate_every=1,
    batch_size=10,
    learning_rate=0.03,
)
"""Of 40 images, so 4 steps per epoch."""

OPTIONS = [
    *("--dataset", "folder", "--transform", "from_scratch", "--backbone", "small", "--channels-per-class", "2"),
    *("--weights", "0.5", "3", "--epochs", "2", "--evaluate-every", "1", "--batch-size", "4", "--device", "cpu"),
]
"""A run on the images of `write_images`, but for ``--data``: 3 classes, 12 images, 3 steps per epoch."""


class Patterns(Dataset):
    """Images of 10 patterns in noise; training images also get noise each time they are read."""

    def __init__(self, split: str) -> None:
        patterns = torch.randn(len(CLASSES), *IMAGE_SHAPE, generator=torch.Generator().manual_seed(1))
        generator = torch.Generator().manual_seed({"train": 2, "test": 3}[split])
        self.targets = [number % len(CLASSES) for number in range({"train": 40, "test": 12}[split])]
        noise = torch.randn(len(self.targets), *IMAGE_SHAPE, generator=generator)
        self.images = 0.5 * patterns[self.targets] + noise
        self.classes = list(CLASSES)
        self.augmented = split == "train"

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        return image + 0.1 * torch.randn(IMAGE_SHAPE) if self.augmented else image, self.targets[index]


def small_data() -> tuple[Patterns, Patterns]:
    """The training set and the test set."""
    return Patterns("train"), Patterns("test")


def small_network(settings: Settings = SETTINGS) -> MCNetwork:
    """The network of `small_data`."""
    return build_network(settings, len(CLASSES))


def untrained_checkpoint(path: Path, settings: Settings = SETTINGS, classes: Sequence[str] = CLASSES) -> None:
    """Write the checkpoint of a run of 40 images before its first step."""
    Run(build_network(settings, len(classes)), settings, 40, classes).save(path)


def write_images(folder: Path) -> Path:
    """Images of 3 classes in ``folder/train`` and ``folder/test``, 4 of each; returns ``folder``."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in range(3):
            for number in range(4):
                path = folder / split / CLASSES[label] / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = random.integers(0, 100, (60, 50, 3), np.uint8)
                pixels[:, :, label] += 100
                Image.fromarray(pixels).save(path)
    return folder


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of metrics without what differs when the same run is repeated."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
