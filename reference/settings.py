"""Everything that decides how a training run comes out, and its command line."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from . import faces


def _setting(default: Any, help: str, **argument: Any) -> Any:
    """A field that is also a command line option; ``argument`` goes to `argparse.ArgumentParser.add_argument`."""
    return field(default=default, metadata={"help": help, "type": type(default), **argument})


@dataclass(frozen=True)
class Settings:
    """One run: the data, the loss, the optimiser and the seed. Two runs of equal settings give equal weights."""

    training_photos: int = _setting(
        3, "photographs of each person to train on; the other ones of the 10 are for testing"
    )
    channels_per_class: int = _setting(4, "ξ, the feature channels of each class")
    weights: tuple[float, float] = _setting(
        (0.5, 3.0),
        "α of L_dis and β of the diversity, in the official convention; 0 0 trains by cross-entropy alone",
        type=float,
        nargs=2,
        metavar=("ALPHA", "BETA"),
    )
    epochs: int = _setting(40, "passes over the training set")
    batch_size: int = _setting(20, "images a step")
    learning_rate: float = _setting(0.03, "of SGD, at its highest")
    momentum: float = _setting(0.9, "of SGD")
    weight_decay: float = _setting(5e-4, "of SGD, for every parameter")
    milestones: tuple[int, ...] = _setting(
        (),
        "epochs at which the learning rate falls to a tenth; without any it falls along a half cosine to zero",
        type=int,
        nargs="*",
        metavar="EPOCH",
    )
    threads: int = _setting(1, "of PyTorch on the CPU; for networks this small more are slower")
    seed: int = _setting(0, "of the split, the initial weights, the order, the augmentation and the masks")

    def __post_init__(self) -> None:
        for name in ("weights", "milestones"):  # from the command line they come as lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        _require(1 <= self.training_photos < faces.PHOTOS_PER_PERSON, "training_photos", self, "from 1 to 9")
        _require(self.channels_per_class >= 1, "channels_per_class", self, "at least 1")
        _require(
            len(self.weights) == 2 and all(0 <= weight < math.inf for weight in self.weights),
            "weights",
            self,
            "two finite numbers, none of them negative",
        )
        _require(self.epochs >= 1, "epochs", self, "at least 1")
        _require(self.batch_size >= 2, "batch_size", self, "at least 2, for batch norm")
        _require(self.learning_rate > 0, "learning_rate", self, "positive")
        _require(0 <= self.momentum < 1, "momentum", self, "from 0 to below 1")
        _require(self.weight_decay >= 0, "weight_decay", self, "zero or more")
        _require(
            list(self.milestones) == sorted(set(self.milestones)) and all(epoch > 0 for epoch in self.milestones),
            "milestones",
            self,
            "positive and rising",
        )
        _require(self.threads >= 1, "threads", self, "at least 1")
        _require(0 <= self.seed < 2**63, "seed", self, "from 0 to below 2^63")


def _require(holds: bool, name: str, settings: Settings, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {expected}; got {getattr(settings, name)}.")


def add_arguments(parser: argparse.ArgumentParser, *, without: tuple[str, ...] = ()) -> None:
    """Give ``parser`` an option for every setting not named in ``without``."""
    for setting in fields(Settings):
        if setting.name not in without:
            parser.add_argument(f"--{setting.name.replace('_', '-')}", default=setting.default, **setting.metadata)


def from_arguments(arguments: argparse.Namespace) -> Settings:
    """The settings among parsed arguments; ValueError for one out of its range."""
    names = {setting.name for setting in fields(Settings)}
    return Settings(**{name: value for name, value in vars(arguments).items() if name in names})


def differences(settings: Settings, other: Settings) -> list[str]:
    """What differs between two runs, for people to read."""
    theirs = asdict(other)
    return [f"{name} {value} and {theirs[name]}" for name, value in asdict(settings).items() if value != theirs[name]]
