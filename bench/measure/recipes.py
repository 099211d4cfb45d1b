"""The cost of a training step by each recipe on this machine, end to end, on random images: `python -m bench recipes`.

Each recipe runs in a process of its own: it reads JPEGs in its data set's format, transforms and batches them, and
takes steps of the optimiser. The number of images per step differs from the recipe. Pretrained weights are random, so
that nothing is downloaded, and the learning rate is then a thousandth. Classes, and so all shapes, are as published.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean

import numpy as np
from PIL import Image

from reference.datasets import DATASETS, writers
from reference.training.build import build_network, picture_transform
from reference.training.environment import environment
from reference.training.recipes import RECIPES, load_recipe
from reference.training.trainer import Run

FOLDER_CLASSES = 4  # of your own folder: any number
PICTURE = (500, 375)  # pixels, as many photographs of birds have


@dataclass(frozen=True)
class Cost:
    """The cost of a recipe.

    Attributes:
        recipe: its name.
        classes: of its data set.
        side: of an image that the network gets, in pixels.
        parameters: of the network.
        seconds: per step, reading its images included.
        peak: the most resident memory of the whole process, in bytes.
    """

    recipe: str
    classes: int
    side: int
    parameters: int
    seconds: tuple[float, ...]
    peak: int


def main(options: argparse.Namespace) -> int:
    """Run every recipe and print a table; returns the exit status."""
    if unknown := [name for name in options.recipes if name not in RECIPES]:
        print(f"error: there is no recipe {unknown[0]!r}; the recipes are {', '.join(RECIPES)}.")
        return 1
    if options.batch_size < 2 or options.steps < 2:
        print("error: --batch-size must be at least 2, for batch norm, and --steps too: the first one is apart.")
        return 1
    on = environment()
    print(
        f"{on['cpu']}, {on['cores']} cores; Python {on['python']}, torch {on['torch']}; "
        f"{options.batch_size} images per step, {options.steps} steps\n\n"
        "| recipe | classes | image | parameters, millions | first step, s | later steps, s | peak memory, GiB |\n"
        "|---|---|---|---|---|---|---|",
        flush=True,
    )
    failed = 0
    for recipe in options.recipes or RECIPES:
        with tempfile.TemporaryDirectory() as root:
            write_data(RECIPES[recipe][0], Path(root), options.batch_size * options.steps)
            try:
                # A process each, so that one's memory is not another's.
                with ProcessPoolExecutor(1, get_context("spawn")) as executor:
                    cost = executor.submit(measure, recipe, root, options.batch_size, options.steps).result()
            except BrokenProcessPool:
                failed += 1
                print(f"| {recipe} | the process was killed, as happens without enough memory |", flush=True)
            else:
                print(line(cost), flush=True)
    return int(failed > 0)


def line(cost: Cost) -> str:
    """A line of the table; the later steps are their mean."""
    first, *later = cost.seconds
    return (
        f"| {cost.recipe} | {cost.classes} | {cost.side}² | {cost.parameters / 1e6:.1f} | {first:.1f} | "
        f"{fmean(later):.1f} | {cost.peak / 2**30:.1f} |"
    )


def measure(recipe: str, root: str, batch_size: int, steps: int) -> Cost:
    """Train for some steps, in a process that does nothing else."""
    settings = replace(load_recipe(recipe), data=root, batch_size=batch_size)
    if settings.backbone_weights:  # random ones in their place diverge at the recipe's learning rate
        settings = replace(settings, backbone_weights="", learning_rate=settings.learning_rate / 1000)
    transform = picture_transform(settings, training=True)
    train_set = DATASETS[settings.dataset].read(Path(root), "train", transform, 0)  # whatever the published sizes
    network = build_network(settings, len(train_set.classes))
    run = Run(network, settings, len(train_set), train_set.classes)
    batches, seconds, side = run.steps(train_set), [], 0
    for _ in range(steps):
        started = time.perf_counter()
        batch = next(batches)
        run.train_step(batch)
        seconds.append(time.perf_counter() - started)
        side = batch[0][0].shape[-1]
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(recipe, len(train_set.classes), side, parameters, tuple(seconds), peak_resident())


def peak_resident() -> int:
    """The most resident memory that this process has had, in bytes; on Linux alone."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def write_data(name: str, root: Path, train: int) -> None:
    """Write random images in the format of a data set: so many to train on, and one to test."""
    sizes = DATASETS[name].sizes
    _WRITERS[name](root, FOLDER_CLASSES if sizes is None else sizes.classes, train)


def draw(path: Path, number: int) -> None:
    """Write a JPEG of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = PICTURE
    noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(path, "JPEG")


def _write_cub(root: Path, classes: int, train: int) -> None:
    names = [f"{label:03d}.Bird" for label in range(1, classes + 1)]
    images = {number: (1 + number * 7 % classes, number <= train) for number in range(1, train + 2)}
    writers.write_cub(root, names, images, draw)


def _write_aircraft(root: Path, classes: int, train: int) -> None:
    names = [f"Variant {label}" for label in range(1, classes + 1)]
    images = {number: names[number * 7 % classes] for number in range(1, train + 1)}
    writers.write_aircraft(root, names, images, {train + 1: names[0]}, draw)


def _write_flowers(root: Path, classes: int, train: int) -> None:
    labels = [1 + number * 7 % classes for number in range(train + 1)]
    half = train // 2
    parts = {"trnid": range(1, half + 1), "valid": range(half + 1, train + 1), "tstid": [train + 1]}
    writers.write_flowers(root, labels, {part: list(ids) for part, ids in parts.items()}, draw)


def _write_cars(root: Path, classes: int, train: int) -> None:
    names = [f"Car {label}" for label in range(1, classes + 1)]
    writers.write_cars(root, names, [1 + number * 7 % classes for number in range(train)], [1], draw)


def _write_folder(root: Path, classes: int, train: int) -> None:
    for number in range(max(train, classes)):
        draw(root / "train" / f"class {number % classes}" / f"{number}.jpg", number)
    for label in range(classes):
        draw(root / "test" / f"class {label}" / "0.jpg", label)


_WRITERS: dict[str, Callable[[Path, int, int], None]] = {
    "cub": _write_cub,
    "cub-boxes": _write_cub,
    "aircraft": _write_aircraft,
    "flowers": _write_flowers,
    "cars": _write_cars,
    "folder": _write_folder,
}
