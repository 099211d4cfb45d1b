"""Everything that decides how a training run comes out."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..datasets import DATASETS
from ..model.names import SMALL, WIDENED_BACKBONES

Dataset = Literal[tuple(DATASETS)]  # type: ignore[valid-type]
Drop = Literal["half"] | int | float

CROSS_ENTROPY, MC_LOSS = "cross-entropy", "cross-entropy + MC-Loss"


@dataclass(frozen=True)
class Settings:
    """One run: the data, the network, the loss, the optimiser and the seed.

    On one machine, two runs of equal settings and as many processes give equal weights, whatever the number of
    data-loader workers; ``data`` is only the place of the files. The text below a field is its help on the command
    line.
    """

    dataset: Dataset = "typefaces"
    """data set to train on"""
    data: str = ""
    """folder of the data set's files; typefaces without one are those that pip installs"""
    transform: Literal["from_scratch", "pretrained", "word"] = "word"
    """sizes, augmentation and normalisation"""
    backbone: str = SMALL
    """feature extractor: small, for small images, bcnn, or a network of torchvision"""
    backbone_weights: str = ""
    """its pretrained weights: torchvision's by name, such as DEFAULT, or a file; random without"""
    pooling: Literal["mean", "max"] = "mean"
    """over the map of the small network, before its head"""
    channels_per_class: int = 3
    """ξ, the feature channels of each class; 0 divides those of the backbone among the classes"""
    convention: Literal["official", "paper"] = "official"
    """meaning of the weights of the MC-Loss"""
    weights: tuple[float, float] = (5.0, 10.0)
    """of the MC-Loss: α of L_dis and β of the diversity in the official convention, μ and λ in the paper's; 0 0 trains
    by cross-entropy alone"""
    label_smoothing: float = 0.0
    """of the classifier's cross-entropy"""
    auxiliary: float = 0.0
    """weight of a linear classifier of the mean-pooled features in place of the MC-Loss, as a control"""
    drop: Drop = "half"
    """channels of each class that are masked in training: half, a number, or a fraction"""
    epochs: int = 40
    """passes over the training set"""
    evaluate_every: int = 5
    """epochs between two evaluations; there is one after the last epoch"""
    batch_size: int = 32
    """images per step, of all processes together"""
    accumulation: int = 1
    """parts of a process's images of a step, computed one after the other; batch norm sees one part"""
    learning_rate: float = 0.01
    """of SGD, at its highest"""
    backbone_factor: float = 1.0
    """factor of the learning rate for the backbone"""
    momentum: float = 0.9
    """of SGD"""
    weight_decay: float = 5e-4
    """of SGD, for every parameter"""
    milestones: tuple[int, ...] = ()
    """epochs at which the learning rate falls to a tenth; without any it falls along a half cosine to zero"""
    mixed_precision: Literal["off", "bf16", "fp16"] = "off"
    """bfloat16, or float16 with scaled gradients, where autocast allows it"""
    channels_last: bool = False
    """compute in the channels_last memory format"""
    compile: bool = False
    """compile the training step by torch.compile"""
    threads: int = 1
    """of PyTorch on the CPU; small networks are slower with more; 0 leaves PyTorch its own choice"""
    seed: int = 0
    """of the drawn images, the initial weights, the order, the augmentation and the masks"""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(Settings).items():
            object.__setattr__(self, name, _checked(name, getattr(self, name), hint))
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
            self.transform != "word" or self.backbone == SMALL,  # it gives one channel
            "transform",
            f"one with three channels for {self.backbone}",
        )
        require(
            self.pooling == "max" or self.backbone == SMALL, "pooling", f'"max" for {self.backbone}, which has its own'
        )
        require(
            self.drop == "half" or (self.drop >= 0 if type(self.drop) is int else 0 <= self.drop < 1),
            "drop",
            '"half", a number of channels, or a fraction from 0 to below 1',
        )
        require(self.epochs >= 1, "epochs", "at least 1")
        require(self.evaluate_every >= 1, "evaluate_every", "at least 1")
        require(self.batch_size >= 2, "batch_size", "at least 2, for batch norm")
        require(
            self.accumulation >= 1
            and self.batch_size % self.accumulation == 0
            and self.batch_size // self.accumulation >= 2,
            "accumulation",
            f"a divisor of batch_size, {self.batch_size}, that leaves at least 2 images per part",
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

    @property
    def loss(self) -> str:
        """The name of the loss in tables and figures."""
        return MC_LOSS if any(self.weights) else CROSS_ENTROPY

    def evaluated_epochs(self) -> list[int]:
        """The epochs after which the network is evaluated, counted from 1; the last one always is."""
        return [*range(self.evaluate_every, self.epochs, self.evaluate_every), self.epochs]

    def _require(self, is_right: bool, name: str, expected: str) -> None:
        if not is_right:
            raise ValueError(f"{name} must be {expected}; got {getattr(self, name)!r}.")


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _checked(name: str, value: Any, hint: Any) -> Any:
    """A value of a file or a checkpoint in the type of its setting; TypeError or ValueError where it is of another."""
    if hint == Drop:
        hint = type(value) if type(value) in (int, float) else Literal["half"]
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            extra = ", a number of channels, or a fraction from 0 to below 1" if name == "drop" else ""
            raise ValueError(f"{name} must be one of {', '.join(map(str, get_args(hint)))}{extra}; got {value!r}.")
        return value
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError(f"{name} must be a list of numbers; got {value!r}.")
        return tuple(_checked(name, element, get_args(hint)[0]) for element in value)
    accepted = (int, float) if hint is float else hint
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise TypeError(f"{name} must be {_WORDS[hint]}; got {value!r}.")
    return hint(value)


def differences(settings: Settings, other: Settings) -> list[str]:
    """Settings in which two runs differ, as texts; the place of the data is left out."""
    theirs = asdict(other)
    return [
        f"{name} {value} and {theirs[name]}"
        for name, value in asdict(settings).items()
        if value != theirs[name] and name != "data"
    ]
