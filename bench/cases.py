"""What is compared: features of real networks and data sets, and sweeps along each dimension."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from mcl_triton import ChannelGroups

CLASSES = {"CUB": 200, "Aircraft": 100, "Cars": 196, "Flowers": 102}
LAYOUTS = ("contiguous", "channels_last")


@dataclass(frozen=True)
class Case:
    """Features that are pooled: (B, N, side, side), and the groups of their channels."""

    batch: int
    groups: ChannelGroups
    side: int  # height and width, in spatial positions
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"

    @property
    def shape(self) -> str:
        """The sizes and the groups: 32x2048x14x14 (152x10 + 48x11)."""
        groups = repr(self.groups).removeprefix("ChannelGroups")
        return f"{self.batch}x{self.groups.num_channels}x{self.side}x{self.side} {groups}"

    @property
    def size(self) -> tuple[int, int, int, int]:
        """(B, N, side, side)."""
        return self.batch, self.groups.num_channels, self.side, self.side

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout, as PyTorch calls it."""
        return torch.channels_last if self.layout == "channels_last" else torch.contiguous_format

    @property
    def dtype_name(self) -> str:
        """For example "float32"."""
        return str(self.dtype).removeprefix("torch.")

    def __str__(self) -> str:
        return f"{self.shape} {self.dtype_name} {self.layout}"

    @property
    def nbytes(self) -> int:
        """|F|, the bytes of the features."""
        return self.batch * self.groups.num_channels * self.side**2 * self.dtype.itemsize

    def features(self, seed: int = 0) -> Tensor:
        """Random activations after a ReLU, on the CPU: about half of them are zero."""
        features = torch.randn(self.size, generator=torch.Generator().manual_seed(seed)).relu().to(self.dtype)
        return features.contiguous(memory_format=self.memory_format)

    def empty(self, device: torch.device | str = "cpu") -> Tensor:
        """Features whose values may be anything."""
        return torch.empty(self.size, dtype=self.dtype, device=device, memory_format=self.memory_format)

    def targets(self) -> Tensor:
        """Random class indices, (B,), on the CPU."""
        generator = torch.Generator().manual_seed(1)
        return torch.randint(self.groups.num_classes, (self.batch,), generator=generator)


def real_cases(batch: int = 32) -> dict[str, Case]:
    """Features of the networks that people train on the four data sets, by a name for people."""
    cases = {}
    for data_set, classes in CLASSES.items():
        for network, channels, pixels, side in (
            ("from scratch, 3 channels a class", 3 * classes, 224, 14),
            ("VGG16 or ResNet18", 512, 224, 7),
            ("VGG16 or ResNet18", 512, 448, 14),
            ("ResNet50", 2048, 224, 7),
            ("ResNet50", 2048, 448, 14),
        ):
            cases[f"{data_set}, {network}, {pixels} pixels"] = Case(batch, ChannelGroups.split(channels, classes), side)
    return cases


def sweeps() -> dict[str, dict[int, Case]]:
    """From a common middle, 64 times as much of each dimension, and classes up to 10,000: name, size, case."""

    def sized(batch: int = 8, classes: int = 200, channels: int = 4, side: int = 14) -> Case:
        return Case(batch, ChannelGroups.uniform(classes, channels), side)

    return {
        "samples, B": {batch: sized(batch=batch) for batch in (1, 4, 16, 64)},
        "classes, C": {classes: sized(classes=classes) for classes in (10, 100, 1000, 10000)},
        "channels of a class, ξ": {channels: sized(channels=channels) for channels in (1, 4, 16, 64)},
        "spatial positions, P": {side**2: sized(side=side) for side in (7, 14, 28, 56)},
    }


def name_of(shape: str) -> str:
    """What people call a shape, whatever the batch; the shape itself where it has no name."""
    return _names().get(re.sub(r"^\d+", "", shape), shape)


def line_of(case: Case) -> str:
    """A case for people."""
    return f"{name_of(case.shape)}: {case}"


def chosen(cases: Iterable[Case], parts: Sequence[str]) -> list[Case]:
    """The cases whose line contains one of the parts, which may have × for x; SystemExit where there is none."""
    cases = list(cases)
    found = [case for case in cases if any(part.replace("×", "x") in line_of(case) for part in parts)]
    if not found:
        raise SystemExit(f"no case's line contains any of {list(parts)}; --cases {str(cases[0])!r} would choose one.")
    return found


@cache
def _names() -> dict[str, str]:
    return {re.sub(r"^\d+", "", case.shape): name for name, case in real_cases().items()}
