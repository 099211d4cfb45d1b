"""Animation of where the channels of a class look, with and without MC-Loss: ``python -m reference animate``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ..commands import Animate
from ..datasets.images import examples
from ..datasets.transforms import photograph
from ..figures.moving_channels import Moment, draw_moving_channels
from ..figures.own_channels import Maps, images_and_classes, own_maps
from ..model.network import MCNetwork
from ..training.build import build_network, load_data
from ..training.checkpoint import Row
from ..training.environment import environment
from ..training.settings import CROSS_ENTROPY, MC_LOSS, Settings
from ..training.trainer import train
from .demo import demo_plan
from .table import sources

WORDS = 3


def main(options: Animate) -> None:
    """Train by both losses, and draw."""
    settings = replace(options.settings, evaluate_every=1)
    without, with_mc = demo_plan(settings, (settings.seed,)).settings()
    _, test_set = load_data(settings)
    indices = examples(test_set, WORDS)
    images, classes = images_and_classes(test_set, indices)

    def look(network: MCNetwork) -> Maps:
        return own_maps(network, images, classes)

    films = {loss: record(one, look) for loss, one in ((CROSS_ENTROPY, without), (MC_LOSS, with_mc))}
    subtitle = (
        "Test words; each channel of a word's own class in its colour, one scale per word. h: diversity score of the "
        f"class. {sources(with_mc, {**environment(), 'device': 'cpu'})}"
    )
    titles = [test_set.classes[index] for index in classes.tolist()]
    photos = photograph(images, test_set.transform).mean(dim=1)
    paths = draw_moving_channels(films, photos, titles, subtitle, options.output, "channels_move")
    print(*paths, sep="\n")


def record(settings: Settings, look: Callable[[MCNetwork], Maps]) -> list[Moment]:
    """Train on the CPU, and look before the first epoch and after each."""
    train_set, test_set = load_data(settings)
    network = build_network(settings, len(train_set.classes))
    moments = [Moment(0, look(network))]

    def add(row: Row) -> None:
        moments.append(Moment(int(row["epoch"]), look(network)))

    with TemporaryDirectory() as folder:
        train(network, train_set, test_set, settings, Path(folder), on_epoch=add)
    return moments
