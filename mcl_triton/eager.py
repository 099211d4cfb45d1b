"""The two reductions and their gradient in plain PyTorch, for the CPU.

The features are worked on in blocks that stay in the cache. `docs/cpu.md` says what each choice here gained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor

# A block of this size stays in the second-level cache while some twenty operators pass over it.
_BLOCK_BYTES = 1 << 20
_SMALLEST_BLOCK_BYTES = 1 << 16
# Spatial positions from which an operator along a row is as fast as one along a whole block.
_LONG_ROW = 32
# Scratch memory as a fraction of the features' bytes.
_FORWARD_SCRATCH = 0.09
_BACKWARD_SCRATCH = 0.13

# How a part of the features, [B, n, ξ, P], is laid out to be worked on: which of these dimensions come first.
_IN_PLACE = (0, 1, 2, 3)  # contiguous features with long rows, as they lie
_COPIED = (2, 0, 1, 3)  # channels outermost: the maximum over them runs along whole blocks, however short the rows
_CHANNELS_LAST = (2, 0, 3, 1)  # likewise, and classes innermost, nearly as they lie


def forward(features: Tensor, runs: Sequence[int], mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Class scores g and diversity scores h.

    Args:
        features: F, (B, N, ...), floating.
        runs: how many classes, how many channels each, how many classes, ...: `ChannelGroups.runs` in one list.
        mask: M, (N,) or (B, N), zeros and ones in the dtype of the results; None keeps every channel.

    Returns:
        g and h, (B, C), float32, or float64 where the features are.
    """
    features = features.flatten(2)  # [B, N, P]
    batch, channels, _ = features.shape
    dtype = working_dtype(features)
    scores = features.new_empty(batch, sum(runs[::2]), dtype=dtype)
    diversity = torch.empty_like(scores)
    order = _order(features, runs)
    scratch = _Scratch(features, runs, _FORWARD_SCRATCH, buffers=1)
    for part in _parts(runs, order):
        g, h = part.of_classes(scores), part.of_classes(diversity)
        kept = None if mask is None else part.of_channels(mask.expand(batch, channels).unsqueeze(2))
        for maps_block, kept_block, g_block, h_block in part.blocks(scratch, part.of_channels(features), kept, g, h):
            s = scratch("s", maps_block.shape)
            torch.softmax(scratch.load(maps_block), part.position_dim, out=s)
            torch.sum(part.maximum(s), part.reduced_dims, keepdim=True, out=h_block)  # CCMP, sum
            attended = scratch.load(maps_block)
            if mask is not None:
                torch.mul(attended, kept_block, out=s)  # CWA: M·F
                attended = s
            torch.mean(part.maximum(attended), part.reduced_dims, keepdim=True, out=g_block)  # CCMP, GAP
        part.put_classes(scores, g)
        part.put_classes(diversity, h)
    return scores, diversity


def backward(
    features: Tensor,
    runs: Sequence[int],
    mask: Tensor | None,
    grad_scores: Tensor | None,
    grad_diversity: Tensor | None,
) -> Tensor:
    """The gradient of the features, given that of g and h (None where there is none)::

        dF[b,j,k] = dh[b,i] · s[b,j,k] · ([W_h[k] = j] − w[b,j])  +  dg[b,i] / P · M_j · [W_g[k] = j]

    with s the softmax, W_h and W_g the winning channel at position k, the first of equals, and w the sum of s over the
    positions that a channel wins.

    Args:
        features, runs, mask: as in `forward`.
        grad_scores: dg, (B, C).
        grad_diversity: dh, (B, C).

    Returns:
        dF in the shape, dtype and memory layout of the features.
    """
    grad = torch.empty_like(features)
    grad_maps = grad.flatten(2)  # [B, N, P], a view unless the layout is an odd one
    layout_is_odd = grad_maps.data_ptr() != grad.data_ptr()
    features = features.flatten(2)
    batch, channels, positions = features.shape
    dtype = working_dtype(features)
    order = _order(features, runs)
    scratch = _Scratch(features, runs, _BACKWARD_SCRATCH, buffers=1 if order == _IN_PLACE else 2)
    mask = features.new_ones(channels, dtype=dtype) if mask is None else mask
    scale, nudges = _tie_breakers(max(runs[1::2]), dtype, features.device)
    for part in _parts(runs, order):
        out_maps = part.of_channels(grad_maps)
        kept, kept_scaled = (
            part.of_channels(values.expand(batch, channels).unsqueeze(2)) for values in (mask, mask * scale)
        )
        dg = None if grad_scores is None else part.of_classes(grad_scores / positions)  # dg / P
        dh = None if grad_diversity is None else part.of_classes(grad_diversity)
        part_nudges = part.channel_column(nudges)
        for maps_block, out_block, kept_block, kept_scaled_block, dg_block, dh_block in part.blocks(
            scratch, part.of_channels(features), out_maps, kept, kept_scaled, dg, dh
        ):
            s = scratch("s", maps_block.shape)
            out = out_block if scratch.fits(out_block) else scratch("out", maps_block.shape)
            if grad_diversity is None:
                out.zero_()
            else:
                torch.softmax(scratch.load(maps_block), part.position_dim, out=s)
                part.winners(s, out=out).mul_(dh_block)  # dh · [W_h = j]
                torch.ops.aten._softmax_backward_data(out, s, part.position_dim, dtype, grad_input=out)
            if grad_scores is not None:
                torch.mul(scratch.load(maps_block), kept_scaled_block, out=s).add_(part_nudges)
                winners = part.winners(s, out=s, exact_values=partial(scratch.load_masked, maps_block, kept_block))
                out.addcmul_(winners, dg_block * kept_block)  # dg / P · M_j · [W_g = j]
            if out is not out_block:
                out_block.copy_(out)
        part.put_channels(grad_maps, out_maps)
    return grad.copy_(grad_maps.view(grad.shape)) if layout_is_odd else grad


def working_dtype(features: Tensor) -> torch.dtype:
    """The dtype that is computed in, and that g and h have: float32, or float64 for float64."""
    return torch.promote_types(features.dtype, torch.float32)


class _Part:
    """The classes of one size ξ, n of them, seen as [B, n, ξ, P] with the dimensions permuted by ``order``."""

    def __init__(
        self, size: int, classes: Sequence[int], first_channels: Sequence[int], order: tuple[int, ...]
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
            self.classes = torch.tensor(classes)
            self.channels = (torch.tensor(first_channels).unsqueeze(1) + torch.arange(size)).flatten()

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

    def blocks(self, scratch: _Scratch, maps: Tensor, *others: Tensor | None) -> Iterator[tuple[Any, ...]]:
        """Cut what `of_channels` and `of_classes` gave into blocks of whole groups that fit the scratch memory."""
        batch = maps.shape[self.sample_dim]
        groups = scratch.block_elements / (self.size * maps.shape[self.position_dim])
        if self.order == _COPIED:  # where it does not matter how a block lies: all samples of some of the classes
            sample_step = _even_step(batch, groups)
            class_step = _even_step(self.num_classes, groups / sample_step)
        else:
            class_step = _even_step(self.num_classes, groups)
            sample_step = _even_step(batch, groups / class_step)
        if self.order == _IN_PLACE and not maps.is_contiguous():
            sample_step = 1  # a block of one sample is contiguous all the same

        def cut(values: Tensor | None) -> Iterator[Tensor | None]:
            if values is None:
                yield from repeat(None)
            else:
                for samples in torch.split(values, sample_step, self.sample_dim):
                    yield from torch.split(samples, class_step, self.class_dim)

        return zip(cut(maps), *map(cut, others), strict=False)  # an absent one goes on for ever

    def maximum(self, values: Tensor) -> Tensor:
        """Cross-channel max pooling (CCMP), the channel dimension kept."""
        return values.amax(self.channel_dim, keepdim=True)

    def winners(self, values: Tensor, out: Tensor, exact_values: Callable[[], Tensor] | None = None) -> Tensor:
        """1 where a channel is the maximum of its group, the first of equals; 0 elsewhere.

        Args:
            values: a block; NaN wins over everything.
            out: where the result goes; may be ``values``.
            exact_values: gives the values themselves, where those handed over are nudged and may overflow.
        """
        maximum = self.maximum(values)
        if values.device.type != "cpu" or not math.isfinite(maximum.sum().item()):
            values = values if exact_values is None else exact_values()
            index = values.max(self.channel_dim, keepdim=True).indices
            return out.zero_().scatter_(self.channel_dim, index, 1.0)
        torch.eq(values, maximum, out=out)
        if out.sum().item() != maximum.numel():  # somewhere several are equal
            out *= self.channel_column(torch.arange(self.size, 0, -1, dtype=out.dtype))
            torch.eq(out, self.maximum(out), out=out)
        return out


class _Scratch:
    """Buffers by name, used again for each block, and how large a block may be."""

    def __init__(self, features: Tensor, runs: Sequence[int], fraction: float, buffers: int) -> None:
        """Take at most a fraction of the features' bytes for some buffers of a block, and the maximum over a group."""
        self.dtype = working_dtype(features)
        self.block_elements = math.inf
        if features.device.type == "cpu":
            per_class = (
                3 * features.shape[0] * sum(runs[::2]) * self.dtype.itemsize
            )  # results, and what is made of them
            affordable = (fraction * features.nbytes - per_class) / (buffers + 1 / min(runs[1::2]))
            self.block_elements = min(_BLOCK_BYTES, max(_SMALLEST_BLOCK_BYTES, affordable)) // self.dtype.itemsize
        self._empty = features.new_empty(0, dtype=self.dtype)
        self._buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A contiguous tensor of this shape, whose values may be anything."""
        length = math.prod(shape)
        buffer = self._buffers.get(name, self._empty)
        if buffer.numel() < length:
            capacity = length if self.block_elements == math.inf else max(length, int(self.block_elements))
            buffer = self._buffers[name] = self._empty.new_empty(capacity)
        return buffer[:length].view(shape)

    def fits(self, block: Tensor) -> bool:
        """Whether a block can be worked on where it is."""
        return block.dtype == self.dtype and block.is_contiguous()

    def load(self, block: Tensor) -> Tensor:
        """The block, contiguous and in the working dtype: itself if it is so already, else a copy in the buffer "s"."""
        return block if self.fits(block) else self("s", block.shape).copy_(block)

    def load_masked(self, block: Tensor, kept: Tensor) -> Tensor:
        """M·F of a block, in the buffer "s"."""
        return torch.mul(self.load(block), kept, out=self("s", block.shape))


def _order(features: Tensor, runs: Sequence[int]) -> tuple[int, int, int, int]:
    """The order of dimensions that suits the layout of (B, N, P) features."""
    if features.stride(1) == 1 and features.shape[1] > 1 and features.shape[2] > 1:
        return _CHANNELS_LAST
    rows_are_long = features.shape[2] >= _LONG_ROW
    blocks_are_contiguous = len(runs) == 2 or features[0].nbytes >= _BLOCK_BYTES // 2
    as_it_lies = features.is_contiguous() and features.dtype == working_dtype(features)
    return _IN_PLACE if as_it_lies and rows_are_long and blocks_are_contiguous else _COPIED


def _parts(runs: Sequence[int], order: tuple[int, ...]) -> list[_Part]:
    """The classes, size by size."""
    return [_Part(*classes_of_a_size, order) for classes_of_a_size in _classes_by_size(tuple(runs))]


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


def _tie_breakers(size: int, dtype: torch.dtype, device: torch.device) -> tuple[float, Tensor]:
    """What makes the first of several zeros the largest, and keeps the order of all other values as it is.

    Zeros are the usual tie: masked channels, and those that a ReLU silenced. Multiplied by the scale, a power of two,
    no two different values are nearer than 2^20 times the smallest normal number; the nudges, (size,), are a few of
    these, largest for the first channel.
    """
    info = torch.finfo(dtype)
    return 2.0**20 / info.eps, torch.arange(size, 0, -1, dtype=dtype, device=device) * info.tiny
