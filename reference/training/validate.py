"""Measuring a checkpoint on the test images of its data set: ``python -m reference validate CHECKPOINT``."""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from ..commands import Validate
from .build import load_test_data
from .checkpoint import load_network
from .distributed import choose_device
from .evaluate import NOT_SUCCESS, evaluate
from .trainer import autocast


def main(options: Validate) -> None:
    """Print the measures of a checkpoint."""
    for name, value in validate(options.checkpoint, options.data, options.device, options.workers).items():
        print(f"{name:20} {value:.4f}")
    print(f"\n{NOT_SUCCESS}")


def validate(path: Path, data: str = "", device: str = "auto", workers: int = 0) -> dict[str, float]:
    """The measures of `evaluate` for the network of a checkpoint, in the precision it was trained in."""
    network, settings, classes = load_network(path)
    test_set = load_test_data(replace(settings, data=data or settings.data))
    if test_set.classes != classes:
        pairs = enumerate(zip_longest(classes, test_set.classes))
        place, expected, found = next((place, *pair) for place, pair in pairs if pair[0] != pair[1])
        raise ValueError(
            f"the data must have the {len(classes)} classes that the network was trained on; got "
            f"{len(test_set.classes)}, where class {place} is {found!r}, not {expected!r}."
        )
    chosen = choose_device(device)
    with autocast(settings, chosen):
        return evaluate(network.to(chosen), test_set, settings.batch_size, workers=workers)
