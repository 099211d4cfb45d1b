"""Cutting the features into blocks that stay in the cache, for the eager path.

Blocks are views or copies of [B, n, ξ, P]: B samples, the n classes of one size ξ, their channels, P positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor

# What one operator works on. Blocks of this size stay in the third-level cache while some twenty operators pass over
# them; with smaller ones the threads meet too often for what a nearer cache gains.
BLOCK_BYTES = 4 << 20
# Spatial positions from which an operator along a row is as fast as one along a whole block.
_LONG_ROW = 32

# Positions copied at a time where they lie multiples of a page apart.
_STRIP = 16
_PAGE_BYTES = 4096

# The order of the dimensions [B, n, ξ, P] in which a block is worked on.
_NATURAL = (0, 1, 2, 3)  # long rows, contiguous or channels_last
_CHANNELS_OUTERMOST = (2, 0, 1, 3)  # others, always copied: the maximum over the channels then runs along whole blocks
# Positions come last in either: a softmax along another dimension rounds equal rows differently, and breaks their ties.


def parts_of(features: Tensor, runs: Sequence[int]) -> list[Part]:
    """The classes of (B, N, P) features, size by size; ``runs`` are `ChannelGroups.runs` in one list."""
    order = _order(features, runs)
    return [Part(*classes_of_a_size, order, features.device) for classes_of_a_size in _classes_by_size(tuple(runs))]


def _order(features: Tensor, runs: Sequence[int]) -> tuple[int, ...]:
    has_long_rows = features.shape[2] >= _LONG_ROW
    is_uniform = len(runs) == 2
    # Neighbouring samples of a class size are contiguous in uniform groups; else one sample has to make up a block.
    is_used_where_it_lies = features.is_contiguous() and (is_uniform or features[0].nbytes >= BLOCK_BYTES // 4)
    is_channels_last = features.stride(1) == 1
    return _NATURAL if has_long_rows and (is_used_where_it_lies or is_channels_last) else _CHANNELS_OUTERMOST


class Part:
    """The classes of one size ξ, n of them, seen as [B, n, ξ, P] with the dimensions permuted by ``order``."""

    def __init__(
        self,
        size: int,
        classes: Sequence[int],
        first_channels: Sequence[int],
        order: tuple[int, ...],
        device: torch.device,
    ) -> None:
        self.size = size
        self.num_classes = len(classes)
        self.order = order
        self.inverse_order = [order.index(dim) for dim in range(4)]
        self.sample_dim, self.class_dim, self.channel_dim, self.position_dim = self.inverse_order
        self.reduced_dims = (self.channel_dim, self.position_dim)
        self.classes: slice | Tensor  # among C
        self.channels: slice | Tensor  # among N, class after class
        if isinstance(classes, range):  # neighbours
            self.classes = slice(classes[0], classes[-1] + 1)
            self.channels = slice(first_channels[0], first_channels[-1] + size)
        else:
            first = torch.tensor(first_channels, device=device)
            self.classes = torch.tensor(classes, device=device)
            self.channels = (first.unsqueeze(1) + torch.arange(size, device=device)).flatten()

    def of_channels(self, values: Tensor) -> Tensor:
        """(B, N, P) as [B, n, ξ, P], permuted: a view where the classes are neighbours, else a copy."""
        values = values[:, self.channels]
        return values.view(values.shape[0], self.num_classes, self.size, values.shape[2]).permute(self.order)

    def of_classes(self, values: Tensor) -> Tensor:
        """(B, C) as [B, n, 1, 1], permuted: a view where the classes are neighbours, else a copy."""
        return values[:, self.classes, None, None].permute(self.order)

    def put_channels(self, target: Tensor, values: Tensor) -> None:
        """Write what `of_channels` gave back into its (B, N, P) tensor, where it is a copy."""
        if isinstance(self.channels, Tensor):
            target[:, self.channels] = values.permute(self.inverse_order).flatten(1, 2)

    def put_classes(self, target: Tensor, values: Tensor) -> None:
        """Write what `of_classes` gave back into its (B, C) tensor, where it is a copy."""
        if isinstance(self.classes, Tensor):
            target[:, self.classes] = values.permute(self.inverse_order).flatten(1)

    def channel_column(self, values: Tensor) -> Tensor:
        """The first ξ values, one for each channel of a class, to be broadcast over everything else."""
        shape = [1] * 4
        shape[self.channel_dim] = self.size
        return values[: self.size].view(shape)

    def blocks(self, maps: Tensor, *others: Tensor | None) -> Iterator[tuple[Any, ...]]:
        """Cut what `of_channels` and `of_classes` gave into blocks of whole groups, one group at least."""
        batch = maps.shape[self.sample_dim]
        group_bytes = self.size * maps.shape[self.position_dim] * max(4, maps.itemsize)
        groups = BLOCK_BYTES / group_bytes if maps.device.type == "cpu" else math.inf
        if self.order == _CHANNELS_OUTERMOST:  # blocks are copied: all samples of some of the classes
            sample_step = _even_step(batch, groups)
            class_step = _even_step(self.num_classes, groups / sample_step)
        else:
            class_step = _even_step(self.num_classes, groups)
            sample_step = _even_step(batch, groups / class_step)
        if self.order == _NATURAL and maps.stride(-1) == 1 and not maps.is_contiguous():
            sample_step = 1  # a block of one sample is contiguous all the same

        def cut(values: Tensor | None) -> Iterator[Tensor | None]:
            if values is None:
                yield from repeat(None)
            else:
                for samples in torch.split(values, sample_step, self.sample_dim):
                    yield from torch.split(samples, class_step, self.class_dim)

        return zip(cut(maps), *map(cut, others), strict=False)  # an absent one goes on for ever


class Scratch:
    """Buffers by name, used again for each block."""

    def __init__(self, features: Tensor, dtype: torch.dtype) -> None:
        self.dtype = dtype
        # Enough for the blocks of every part, so that no second buffer is made while the first is in use.
        self._least = min(features.numel(), BLOCK_BYTES // dtype.itemsize)
        self._empty = features.new_empty(0, dtype=dtype)
        self._buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A contiguous tensor of this shape, whose values may be anything."""
        length = math.prod(shape)
        buffer = self._buffers.get(name, self._empty)
        if buffer.numel() < length:
            buffer = self._buffers[name] = self._empty.new_empty(max(length, self._least))
        return buffer[:length].view(shape)

    def fits(self, block: Tensor) -> bool:
        """Whether a block can be worked on where it is."""
        return block.dtype == self.dtype and block.is_contiguous()

    def load(self, block: Tensor) -> Tensor:
        """The block, contiguous and in the working dtype: itself if it is so already, else a copy in the buffer "s"."""
        return block if self.fits(block) else copy(self("s", block.shape), block)

    def load_masked(self, block: Tensor, kept: Tensor) -> Tensor:
        """M·F of a block, in the buffer "s"."""
        return torch.mul(self.load(block), kept, out=self("s", block.shape))


def copy(target: Tensor, source: Tensor) -> Tensor:
    """Copy a block to another layout; returns the target.

    In `channels_last` with 1024, 2048, ... channels the positions lie multiples of a page apart, share few places in
    the cache, and push each other out: there a few of them are copied at a time.
    """
    row_bytes = max(tensor.stride(-1) * tensor.itemsize for tensor in (source, target))
    step = _STRIP if row_bytes % _PAGE_BYTES == 0 else source.shape[-1]
    for target_strip, source_strip in zip(torch.split(target, step, -1), torch.split(source, step, -1), strict=True):
        target_strip.copy_(source_strip)
    return target


def _even_step(length: int, largest: float) -> int:
    """The step that cuts ``length`` into the fewest parts of at most ``largest``, and these evenly."""
    parts = math.ceil(length / max(1, math.floor(min(largest, length))))
    return math.ceil(length / parts)


@lru_cache(maxsize=64)
def _classes_by_size(runs: tuple[int, ...]) -> list[tuple[int, Sequence[int], Sequence[int]]]:
    """For each size: the classes that have it and their first channels, as ranges where they are neighbours."""
    found: dict[int, tuple[list[range], list[range]]] = {}
    first_class = first_channel = 0
    for classes, size in zip(runs[::2], runs[1::2], strict=True):
        class_ranges, channel_ranges = found.setdefault(size, ([], []))
        class_ranges.append(range(first_class, first_class + classes))
        channel_ranges.append(range(first_channel, first_channel + classes * size, size))
        first_class += classes
        first_channel += classes * size

    def joined(ranges: list[range]) -> Sequence[int]:
        return ranges[0] if len(ranges) == 1 else list(chain.from_iterable(ranges))

    return [(size, joined(class_ranges), joined(channels)) for size, (class_ranges, channels) in found.items()]
