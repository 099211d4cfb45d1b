"""The features to compare on: those of real networks and data sets, and sweeps along each dimension."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mcl_triton import ChannelGroups

CLASSES = {"CUB": 200, "Aircraft": 100, "Cars": 196, "Flowers": 102}
LAYOUTS = ("contiguous", "channels_last")
USUAL = ((torch.float32, "contiguous"), (torch.bfloat16, "channels_last"))  # full and mixed precision


@dataclass(frozen=True)
class Case:
    """Features to pool, (B, N, side, side), and the groups of their channels.

    Attributes:
        batch: B, samples.
        groups: of the N channels.
        side: height and width of a map, in positions.
        dtype, layout: of the features.
        data_set, network, pixels: where such features occur, pixels being the side of an image; "" and 0 for nowhere.
    """

    batch: int
    groups: ChannelGroups
    side: int
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"
    data_set: str = ""
    network: str = ""
    pixels: int = 0

    @property
    def facts(self) -> dict[str, str | int]:
        """The columns of a result that describe the features."""
        return {
            "data_set": self.data_set,
            "network": self.network,
            "pixels": self.pixels,
            "samples": self.batch,
            "channels": self.groups.num_channels,
            "groups": repr(self.groups).removeprefix("ChannelGroups(").removesuffix(")"),
            "side": self.side,
            "dtype": str(self.dtype).removeprefix("torch."),
            "layout": self.layout,
        }

    @property
    def name(self) -> str:
        """For example "CUB, ResNet50, 448 pixels"; the shape where such features occur nowhere."""
        return f"{self.data_set}, {self.network}, {self.pixels} pixels" if self.network else self.shape

    @property
    def shape(self) -> str:
        """For example "32x2048x14x14 (152x10 + 48x11)"."""
        facts = self.facts
        return f"{self.batch}x{facts['channels']}x{self.side}x{self.side} ({facts['groups']})"

    @property
    def size(self) -> tuple[int, int, int, int]:
        """(B, N, side, side)."""
        return self.batch, self.groups.num_channels, self.side, self.side

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout, as PyTorch calls it."""
        return torch.channels_last if self.layout == "channels_last" else torch.contiguous_format

    def __str__(self) -> str:
        return f"{self.shape} {self.facts['dtype']} {self.layout}"

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
    """Features of networks that are common on the four data sets, by name."""
    cases = [
        Case(batch, ChannelGroups.split(channels, classes), side, data_set=data_set, network=network, pixels=pixels)
        for data_set, classes in CLASSES.items()
        for network, channels, pixels, side in (
            ("from scratch", 3 * classes, 224, 14),
            ("VGG16 or ResNet18", 512, 224, 7),
            ("VGG16 or ResNet18", 512, 448, 14),
            ("ResNet50", 2048, 224, 7),
            ("ResNet50", 2048, 448, 14),
        )
    ]
    return {case.name: case for case in cases}


def quick_cases() -> list[Case]:
    """Cases of CUB, in full and in mixed precision: the rows of the README and of the tables."""
    return [case for case in all_cases() if case.data_set == "CUB" and (case.dtype, case.layout) in USUAL]


def all_cases() -> list[Case]:
    """All real ones in full and in mixed precision, those of CUB in both dtypes and both layouts."""
    return [
        replace(case, dtype=dtype, layout=layout)
        for case in real_cases().values()
        for dtype in (torch.float32, torch.bfloat16)
        for layout in LAYOUTS
        if case.data_set == "CUB" or (dtype, layout) in USUAL
    ]


def sweeps() -> dict[str, dict[int, Case]]:
    """From a common middle, 64 times as much of each dimension, and up to 10,000 classes: dimension, size, case."""

    def sized(batch: int = 8, classes: int = 200, channels: int = 4, side: int = 14) -> Case:
        return Case(batch, ChannelGroups.uniform(classes, channels), side)

    return {
        "samples, B": {batch: sized(batch=batch) for batch in (1, 4, 16, 64)},
        "classes, C": {classes: sized(classes=classes) for classes in (10, 100, 1000, 10000)},
        "channels per class, ξ": {channels: sized(channels=channels) for channels in (1, 4, 16, 64)},
        "positions, P": {side**2: sized(side=side) for side in (7, 14, 28, 56)},
    }


def line_of(case: Case) -> str:
    """A case with its name."""
    return f"{case.name}: {case}"


def chosen(cases: Iterable[Case], parts: Sequence[str]) -> list[Case]:
    """The cases whose line contains one of the parts, which may have × for x; SystemExit where there is none."""
    cases = list(cases)
    found = [case for case in cases if any(part.replace("×", "x") in line_of(case) for part in parts)]
    if not found:
        raise SystemExit(f"no case's line contains any of {list(parts)}; --cases {str(cases[0])!r} would choose one.")
    return found
