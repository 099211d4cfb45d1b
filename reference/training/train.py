"""The commands that train: ``python -m reference train`` and ``python -m reference resume``.

On several GPUs: ``torchrun --standalone --nproc-per-node 4 -m reference train ...``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

from ..commands import Resume, Train
from . import checkpoint, distributed
from .build import build_network, load_data
from .logs import channel_pictures, tensorboard
from .run_folder import BEST, CHECKPOINT
from .settings import Settings
from .trainer import train

RUNS = Path("runs")
"""The folder for new runs."""


def main(options: Train | Resume) -> None:
    """Train by the options, in one process or in this one of several."""
    if isinstance(options, Resume):
        settings = checkpoint.load(options.folder / CHECKPOINT).settings
        settings = replace(settings, data=options.data or settings.data)
        _train(options, settings, lambda: options.folder)
    else:
        folder = Path(options.folder)
        if options.folder and folder.is_file():
            raise ValueError(f"--folder must be a folder; got the file {folder}.")
        if options.folder and (folder / CHECKPOINT).exists():
            raise ValueError(f"{folder} has a run: resume it by `python -m reference resume {folder}`.")
        name = Path(options.recipe).stem or options.settings.dataset
        _train(options, options.settings, lambda: folder if options.folder else new_folder(name))


def new_folder(name: str) -> Path:
    """Make a folder for a run: ``runs/NAME``, or where that is there ``runs/NAME-2`` and so on."""
    for number in count(1):
        folder = RUNS / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError


def _train(options: Train | Resume, settings: Settings, make_folder: Callable[[], Path]) -> None:
    resume = isinstance(options, Resume)
    device = distributed.choose_device(options.device)
    with distributed.joined(device):
        train_set, test_set = load_data(settings)
        # A run that is resumed has its weights already.
        network = build_network(replace(settings, backbone_weights="") if resume else settings, len(train_set.classes))
        is_first = distributed.rank() == 0
        folder = make_folder() if is_first else RUNS  # the others write nothing
        if is_first:
            print(f"training in {folder}")
        logger = None
        if is_first and (options.tensorboard or options.tensorboard_images):
            logger = tensorboard(folder, partial(channel_pictures, network, test_set, options.tensorboard_images))
        try:
            rows = train(
                network.to(device),
                train_set,
                test_set,
                settings,
                folder,
                resume=resume,
                workers=options.workers,
                on_epoch=logger,
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(*[f"resume it by `python -m reference resume {folder}`"] * is_first) from None
        if is_first:
            print(f"test accuracy {rows[-1]['test_accuracy']:.1%}; checkpoint and metrics are in {folder}")
            best = max(rows, key=lambda row: row["test_accuracy"])
            print(
                f"highest {best['test_accuracy']:.1%} after epoch {best['epoch']:.0f}, kept in {folder / BEST}; it was "
                "chosen on the test images, so it is optimistic"
            )
