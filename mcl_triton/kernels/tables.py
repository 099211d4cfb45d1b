"""The small tables that the kernels read: which channels each class has, and how large classes are cut."""

from __future__ import annotations

from itertools import chain, pairwise, repeat
from typing import NamedTuple

import torch
from torch import Tensor

from ..tracing import once_per_device
from .launch import Cut, channel_offsets, pieces_of, place_bits, ways_to_cut


class Tables(NamedTuple):
    """All int32.

    Attributes:
        offsets: first channel of each class, and N, (C + 1,).
        class_of_channel: (N,).
        pieces, bundles, splits: the attributes of `launch.Pieces`, by `launch.ways_to_cut`.
    """

    offsets: Tensor
    class_of_channel: Tensor
    pieces: dict[Cut, Tensor]
    bundles: dict[Cut, Tensor]
    splits: dict[Cut, Tensor]


@once_per_device
def tables_of(runs: tuple[int, ...], device: torch.device) -> Tables:
    """The tables of these groups."""

    def table(numbers: tuple[int, ...]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int32, device="cpu").to(device)

    offsets = channel_offsets(runs)
    classes = chain.from_iterable(repeat(number, end - first) for number, (first, end) in enumerate(pairwise(offsets)))
    ways = {cut: pieces_of(runs, cut) for cut in ways_to_cut(runs)}
    return Tables(
        table(offsets),
        table((*classes,)),
        *({cut: table(of[number]) for cut, of in ways.items()} for number in range(3)),
    )


def dtype_of_winners(runs: tuple[int, ...]) -> torch.dtype:
    """The dtype in which the kernels keep the winners of a position."""
    return {4: torch.uint8, 8: torch.int16, 15: torch.int32, 31: torch.int64}[place_bits(runs)]
