"""How good a checkpoint is on the test images of its data set: ``python -m reference validate CHECKPOINT``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from .build import load_test_data
from .checkpoint import load_network
from .distributed import choose_device
from .evaluate import NOT_SUCCESS, evaluate
from .trainer import autocast


def main(arguments: list[str] | None = None) -> int:
    """Evaluate from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m reference validate",
        description="Measure a trained network on the test images.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="written by reference train")
    parser.add_argument("--data", metavar="FOLDER", help="folder of the data set's files, if no longer where it was")
    parser.add_argument("--device", default="auto", help="such as cpu or cuda:1; auto is a GPU where there is one")
    parser.add_argument("--workers", type=int, default=0, help="processes that read images ahead")
    options = parser.parse_args(arguments)
    try:
        measures = validate(options.checkpoint, options.data, options.device, options.workers)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, value in measures.items():
        print(f"{name:20} {value:.4f}")
    print(f"\n{NOT_SUCCESS}")
    return 0


def validate(path: Path, data: str | None = None, device: str = "auto", workers: int = 0) -> dict[str, float]:
    """What `evaluate` gives for the network of a checkpoint, in the precision it was trained in."""
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


if __name__ == "__main__":
    sys.exit(main())
