"""Everything that decides how a training run comes out, and its command line."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any

from ..datasets import DATASETS
from ..datasets.transforms import IMAGE_CHANNELS, PIPELINES
from ..model.backbones import WIDENED_BACKBONES

SMALL = "small"
"""The backbone of the demo, for small images."""

POOLINGS = ("mean", "max")
MIXED_PRECISIONS = ("off", "bf16", "fp16")


def _setting(default: Any, help: str, **argument: Any) -> Any:
    """A field that is also a command line option; ``argument`` goes to `argparse.ArgumentParser.add_argument`."""
    if isinstance(default, bool):
        argument = {"action": argparse.BooleanOptionalAction}
    elif not isinstance(default, str):
        argument = {"type": type(default), **argument}
    return field(default=default, metadata={"help": help, **argument})


def drop_from_text(text: str) -> str | int | float:
    """What ``drop`` is on the command line: "1" is a number of channels, "0.4" a fraction, "half" itself."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


@dataclass(frozen=True)
class Settings:
    """One run: the data, the network, the loss, the optimiser and the seed.

    On one machine, two runs of equal settings and as many processes give equal weights, whatever the number of
    data-loader workers; ``data`` is only where the files lie.
    """

    dataset: str = _setting("typefaces", "what to train on", choices=tuple(DATASETS))
    data: str = _setting(
        "", "folder of the data set's files; typefaces without one are those that pip installs", metavar="FOLDER"
    )
    transform: str = _setting("word", "sizes, augmentation and normalisation", choices=tuple(PIPELINES))
    backbone: str = _setting(
        SMALL, 'the feature extractor: "small", for small images, "bcnn", or a network of torchvision', metavar="NAME"
    )
    backbone_weights: str = _setting(
        "",
        "its pretrained weights: torchvision's by name, such as DEFAULT, or a file; random without",
        metavar="WEIGHTS",
    )
    pooling: str = _setting("mean", "over the map of the small network, before its head", choices=POOLINGS)
    channels_per_class: int = _setting(
        3, "ξ, the feature channels of each class; 0 divides those that the backbone has among the classes"
    )
    convention: str = _setting("official", "what the weights of the MC-Loss mean", choices=("official", "paper"))
    weights: tuple[float, float] = _setting(
        (5.0, 10.0),
        "of the MC-Loss: α of L_dis and β of the diversity in the official convention, μ and λ in the paper's; 0 0 "
        "trains by cross-entropy alone",
        type=float,
        nargs=2,
        metavar=("FIRST", "SECOND"),
    )
    label_smoothing: float = _setting(0.0, "of the classifier's cross-entropy")
    auxiliary: float = _setting(
        0.0, "weight of a linear classifier of the mean-pooled features in place of the MC-Loss, as a control"
    )
    drop: str | int | float = _setting(
        "half", "channels of each class that are masked in training: half, a number, or a fraction", type=drop_from_text
    )
    epochs: int = _setting(40, "passes over the training set")
    evaluate_every: int = _setting(5, "epochs between two evaluations; there is one after the last epoch")
    batch_size: int = _setting(32, "images a step, of all processes together")
    accumulation: int = _setting(
        1, "parts that each process computes its images of a step in, one after the other; batch norm sees one part"
    )
    learning_rate: float = _setting(0.01, "of SGD, at its highest")
    backbone_factor: float = _setting(1.0, "what the learning rate is multiplied by for the backbone")
    momentum: float = _setting(0.9, "of SGD")
    weight_decay: float = _setting(5e-4, "of SGD, for every parameter")
    milestones: tuple[int, ...] = _setting(
        (),
        "epochs at which the learning rate falls to a tenth; without any it falls along a half cosine to zero",
        type=int,
        nargs="*",
        metavar="EPOCH",
    )
    mixed_precision: str = _setting(
        "off", "bfloat16, or float16 with scaled gradients, where autocast allows it", choices=MIXED_PRECISIONS
    )
    channels_last: bool = _setting(False, "compute in the channels_last memory format")
    compile: bool = _setting(False, "compile the training step by torch.compile")
    threads: int = _setting(
        1, "of PyTorch on the CPU; for networks this small more are slower; 0 leaves PyTorch its own choice"
    )
    seed: int = _setting(0, "of the drawn images, the initial weights, the order, the augmentation and the masks")

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = _checked(setting, getattr(self, setting.name))
            object.__setattr__(self, setting.name, value)
            choices = setting.metadata.get("choices", [value])
            self._require(value in choices, setting.name, f"one of {', '.join(map(str, choices))}")
        require = self._require
        require(self.backbone != SMALL or not self.backbone_weights, "backbone_weights", f'empty for "{SMALL}"')
        fewest = int(self.backbone == SMALL)  # it has no channels of its own
        require(self.channels_per_class >= fewest, "channels_per_class", f"at least {fewest} for {self.backbone}")
        require(
            self.channels_per_class == 0
            or self.backbone == SMALL
            or (self.backbone in WIDENED_BACKBONES and not self.backbone_weights),
            "channels_per_class",
            f"0, which divides the channels of {self.backbone} among the classes: only "
            f"{' and '.join(WIDENED_BACKBONES)}, and without backbone_weights, can be widened",
        )
        require(
            len(self.weights) == 2 and all(0 <= weight < math.inf for weight in self.weights),
            "weights",
            "two finite numbers, none of them negative",
        )
        require(0 <= self.label_smoothing < 1, "label_smoothing", "from 0 to below 1")
        require(
            0 <= self.auxiliary < math.inf and not (self.auxiliary and any(self.weights)),
            "auxiliary",
            "finite, not negative, and 0 where there is MC-Loss",
        )
        require(
            IMAGE_CHANNELS[self.transform] == 3 or self.backbone == SMALL,
            "transform",
            f"one with three channels for {self.backbone}",
        )
        require(
            self.pooling == "max" or self.backbone == SMALL, "pooling", f'"max" for {self.backbone}, which has its own'
        )
        require(_is_drop(self.drop), "drop", '"half", a number of channels, or a fraction from 0 to below 1')
        require(self.epochs >= 1, "epochs", "at least 1")
        require(self.evaluate_every >= 1, "evaluate_every", "at least 1")
        require(self.batch_size >= 2, "batch_size", "at least 2, for batch norm")
        require(
            self.accumulation >= 1
            and self.batch_size % self.accumulation == 0
            and self.batch_size // self.accumulation >= 2,
            "accumulation",
            f"a divisor of batch_size, {self.batch_size}, that leaves at least 2 images a part",
        )
        require(0 < self.learning_rate < math.inf, "learning_rate", "positive")
        require(0 <= self.backbone_factor < math.inf, "backbone_factor", "zero or more")
        require(0 <= self.momentum < 1, "momentum", "from 0 to below 1")
        require(0 <= self.weight_decay < math.inf, "weight_decay", "zero or more")
        require(
            list(self.milestones) == sorted(set(self.milestones)) and all(epoch > 0 for epoch in self.milestones),
            "milestones",
            "positive and rising",
        )
        require(self.threads >= 0, "threads", "at least 0")
        require(0 <= self.seed < 2**63, "seed", "from 0 to below 2^63")

    def evaluated_epochs(self) -> list[int]:
        """The epochs after which the network is evaluated, counted from 1; the last one always is."""
        return [*range(self.evaluate_every, self.epochs, self.evaluate_every), self.epochs]

    def _require(self, holds: bool, name: str, expected: str) -> None:
        if not holds:
            raise ValueError(f"{name} must be {expected}; got {getattr(self, name)!r}.")


_KINDS: dict[type, tuple[type | tuple[type, ...], str]] = {
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
    str: (str, "a text"),
}


def _checked(setting: Field[Any], value: Any) -> Any:
    """The value of a setting in exactly its type; TypeError where it is of another."""
    name = setting.name
    if name == "drop":  # the only one of several types
        return _of_kind(name, value, type(value) if type(value) in (int, float) else str)
    if not isinstance(setting.default, tuple):
        return _of_kind(name, value, type(setting.default))
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"{name} must be a list of numbers; got {value!r}.")
    return tuple(_of_kind(name, element, setting.metadata["type"]) for element in value)


def _of_kind(name: str, value: Any, kind: type) -> Any:
    accepted, expected = _KINDS[kind]
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{name} must be {expected}; got {value!r}.")
    return kind(value)


def _is_drop(drop: str | int | float) -> bool:
    if isinstance(drop, str):
        return drop == "half"
    return drop >= 0 if isinstance(drop, int) else 0 <= drop < 1


def add_arguments(
    parser: argparse.ArgumentParser, defaults: Settings | None = None, *, only: tuple[str, ...] | None = None
) -> None:
    """Give ``parser`` an option for every setting, or ``only`` for those named."""
    for setting in fields(Settings):
        if only is None or setting.name in only:
            default = getattr(Settings() if defaults is None else defaults, setting.name)
            parser.add_argument(f"--{setting.name.replace('_', '-')}", default=default, **setting.metadata)


def from_arguments(arguments: argparse.Namespace) -> Settings:
    """The settings among parsed arguments; ValueError for one out of its range."""
    names = {setting.name for setting in fields(Settings)}
    return Settings(**{name: value for name, value in vars(arguments).items() if name in names})


def differences(settings: Settings, other: Settings) -> list[str]:
    """What differs between two runs, for people to read; where the data lie is no difference."""
    theirs = asdict(other)
    return [
        f"{name} {value} and {theirs[name]}"
        for name, value in asdict(settings).items()
        if value != theirs[name] and name != "data"
    ]
