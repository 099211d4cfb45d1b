"""The two reductions and their gradient in plain PyTorch, arranged for the CPU; they run on any device.

The features are cut into blocks of whole groups that stay in a core's cache. Each thread takes one block after another
and runs some twenty operators on it, all on its own core. So the cores wait for each other once per direction, not once
per operator: on a busy machine that wait is what takes the time. `docs/cpu.md` has the measurements.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import accumulate, groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d_with_indices

from .backend import working_dtype

# Elements of a block. Larger ones leave the cache, smaller ones leave more of the time to Python.
BLOCK_SIZE = 1 << 19
# Fewer than this are not worth a second thread; PyTorch does not divide its operators below it either.
_LEAST_SIZE = 1 << 15


def forward(
    features: Tensor, runs: Sequence[int], mask: Tensor | None, wants_scores: bool = True, wants_diversity: bool = True
) -> tuple[Tensor, Tensor]:
    """Class scores g and diversity scores h.

    Args:
        features: F, (B, N, ...), floating.
        runs: how many classes, how many channels each, how many classes, ...: `ChannelGroups.runs` in one list.
        mask: M, (N,) or (B, N), zeros and ones in the dtype of the results; None keeps every channel.
        wants_scores, wants_diversity: whether g and h are wanted.

    Returns:
        g and h, (B, C), float32, or float64 where the features are; empty where not wanted.
    """
    maps = features.flatten(2)  # [B, N, P]
    dtype = working_dtype(features)
    shape = (maps.shape[0], sum(runs[::2]))
    scores = features.new_empty(shape if wants_scores else 0, dtype=dtype)
    diversity = features.new_empty(shape if wants_diversity else 0, dtype=dtype)
    kept = None if mask is None else mask.expand(maps.shape[:2]).unsqueeze(2)

    def pool(block: _Block) -> None:
        x = _loaded(maps[block.channels], dtype)
        buffer = torch.empty_like(x)
        if wants_diversity:
            s = torch.softmax(x, 2, out=buffer)
            diversity[block.classes] = torch.cat([_maxima(own)[0].sum((2, 3)) for own in block.by_size(s)], 1)
        if wants_scores:
            attended = x if kept is None else torch.mul(x, kept[block.channels], out=buffer)  # CWA: M·F
            scores[block.classes] = torch.cat([_maxima(own)[0].mean((2, 3)) for own in block.by_size(attended)], 1)

    _for_each(_blocks(maps, runs), pool)
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
    maps = features.flatten(2)  # [B, N, P]
    grad = torch.empty_like(features)
    grad_maps = grad.flatten(2)  # a view unless the layout is an odd one
    dtype = working_dtype(features)
    kept = torch.ones((), dtype=dtype, device=maps.device) if mask is None else mask.unsqueeze(-1)
    kept = kept.expand(*maps.shape[:2], 1)
    given = [each for each in (grad_scores, grad_diversity) if each is not None]
    is_finite = bool(torch.stack([each.sum() for each in given]).isfinite().all())

    def at_winners(winners: Tensor, values: Tensor) -> Tensor:  # zeros elsewhere, also where 0 · ∞ would be NaN
        return winners.mul_(values) if is_finite else winners.copy_(torch.where(winners == 1, values, 0.0))

    def differentiate(block: _Block) -> None:
        x = _loaded(maps[block.channels], dtype)
        target = grad_maps[block.channels]
        works_in_place = block.is_view and target.dtype == dtype and target.is_contiguous()
        out = target if works_in_place else torch.empty_like(x)
        buffer = torch.empty_like(x)
        if grad_diversity is None:
            out.zero_()
        else:
            s = torch.softmax(x, 2, out=buffer)
            dh = block.by_size(grad_diversity[block.classes])
            for own, dh_own, out_own in zip(block.by_size(s), dh, block.by_size(out), strict=True):
                at_winners(_winners(own, out_own), dh_own)
            torch.ops.aten._softmax_backward_data(out, s, 2, dtype, grad_input=out)
        if grad_scores is not None:
            attended = torch.mul(x, kept[block.channels], out=buffer)
            dg = block.by_size(grad_scores[block.classes] / maps.shape[2])
            kept_by_size = block.by_size(kept[block.channels])
            for own, dg_own, kept_own, out_own in zip(
                block.by_size(attended), dg, kept_by_size, block.by_size(out), strict=True
            ):
                out_own += at_winners(_winners(own, own), dg_own * kept_own)
        if not works_in_place:
            grad_maps[block.channels] = out.to(grad.dtype)

    _for_each(_blocks(maps, runs), differentiate)
    return grad if grad_maps.data_ptr() == grad.data_ptr() else grad.copy_(grad_maps.view(grad.shape))


def formula(
    features: Tensor, runs: Sequence[int], mask: Tensor | None, wants_scores: bool, wants_diversity: bool
) -> tuple[Tensor, Tensor]:
    """`forward` in the plainest operators, which autograd differentiates and `torch.compile` fuses."""
    x = _LayoutOfGradient.apply(features).flatten(2).to(working_dtype(features))
    attended = x if mask is None else x * mask.unsqueeze(-1)  # CWA: M·F
    attention = x.softmax(2)
    scores, diversity, first = [], [], 0
    for count, size in zip(runs[::2], runs[1::2], strict=True):
        own = slice(first, first + count * size)
        first += count * size
        if wants_scores:
            scores.append(torch.unflatten(attended[:, own], 1, (count, size)).max(2).values.mean(2))  # CCMP, GAP
        if wants_diversity:
            diversity.append(torch.unflatten(attention[:, own], 1, (count, size)).max(2).values.sum(2))  # CCMP, sum
    g, h = (torch.cat(parts, 1) if parts else x.new_empty(0) for parts in (scores, diversity))
    return g, h


class _LayoutOfGradient(torch.autograd.Function):
    """The identity, with a gradient in the memory layout of the features, as `backward` returns it."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        is_last = features.dim() == 4 and features.is_contiguous(memory_format=torch.channels_last)
        ctx.layout = torch.channels_last if is_last else torch.contiguous_format
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.contiguous(memory_format=ctx.layout)


def _maxima(groups: Tensor) -> tuple[Tensor, Tensor]:
    """The maximum over the channels of [b, n, ξ, P] groups, and which of the n·ξ channels it is, each [b, n, 1, P].

    To `max_pool2d` the channels are rows and the positions are channels, innermost in memory: the case that it has
    vectorised. `max(dim)` is not.
    """
    rows = groups.flatten(1, 2).unsqueeze(2).permute(0, 3, 1, 2)  # [b, P, n·ξ, 1]
    maxima, winners = max_pool2d_with_indices(rows, (groups.shape[2], 1))
    return maxima.permute(0, 2, 3, 1), winners.permute(0, 2, 3, 1)


def _winners(groups: Tensor, out: Tensor) -> Tensor:
    """1 where a channel is the maximum of its group, the first of equals or the first NaN; 0 elsewhere.

    Args:
        groups: [b, n, ξ, P].
        out: where the result goes; may be ``groups``.
    """
    count, size = groups.shape[1:3]
    numbers = torch.arange(count * size, dtype=groups.dtype, device=groups.device).view(count, size, 1)
    maxima, winner = _maxima(groups)
    if groups.device.type != "cpu" or maxima.sum().isnan():  # of several NaNs, max_pool2d takes the last
        winner = groups.max(2, keepdim=True).indices + numbers[:, :1]
    return torch.eq(winner.to(groups.dtype), numbers, out=out)


class _Block(NamedTuple):
    """Whole groups of some samples.

    Attributes:
        classes, channels: indices of (B, C) and of (B, N, ...).
        runs: how many classes of which size, in the order of the indices.
    """

    classes: tuple[slice, slice | Tensor]
    channels: tuple[slice, slice | Tensor]
    runs: list[tuple[int, int]]

    @property
    def is_view(self) -> bool:
        """Whether indexing gives a view."""
        return isinstance(self.channels[1], slice)

    def by_size(self, values: Tensor) -> list[Tensor]:
        """Views for each size ξ: of (b, channels, P) as [b, n, ξ, P], of (b, classes) as [b, n, 1, 1]."""
        if values.dim() == 2:
            return [own[:, :, None, None] for own in torch.split(values, [count for count, _ in self.runs], 1)]
        own_channels = torch.split(values, [count * size for count, size in self.runs], 1)
        return [own.view(own.shape[0], *run, own.shape[2]) for own, run in zip(own_channels, self.runs, strict=True)]


def _blocks(maps: Tensor, runs: Sequence[int]) -> list[_Block]:
    """Cut (B, N, P) features into blocks of several samples, or of some classes of one sample if that is too large."""
    batch, channels, positions = maps.shape
    largest = maps.numel()
    if maps.device.type == "cpu":
        largest = min(BLOCK_SIZE, max(_LEAST_SIZE, largest // torch.get_num_threads()))
    by_size = list(zip(runs[::2], runs[1::2], strict=True))
    is_mixed = len(by_size) > len(set(runs[1::2]))
    if is_mixed:  # the classes of each size are brought together
        sizes = torch.tensor(runs[1::2], device="cpu").repeat_interleave(torch.tensor(runs[::2], device="cpu"))  # (C,)
        class_order = sizes.argsort(stable=True).to(maps.device)
        channel_order = sizes.repeat_interleave(sizes).argsort(stable=True).to(maps.device)
        by_size = [(len(list(same)), size) for size, same in groupby(sorted(sizes.tolist()))]
    if channels * positions <= largest:
        samples, parts = _even(batch, largest // (channels * positions)), [by_size]
    else:
        samples = [1] * batch
        parts = [[(n, size)] for count, size in by_size for n in _even(count, largest // (size * positions))]
    classes: list[Any] = _slices([sum(count for count, _ in part) for part in parts])
    own_channels: list[Any] = _slices([sum(count * size for count, size in part) for part in parts])
    if is_mixed:
        classes = [class_order[own] for own in classes]
        own_channels = [channel_order[own] for own in own_channels]
    return [
        _Block((rows, of_classes), (rows, of_channels), part)
        for rows in _slices(samples)
        for of_classes, of_channels, part in zip(classes, own_channels, parts, strict=True)
    ]


def _even(length: int, most: int) -> list[int]:
    """The fewest lengths of at most ``most``, or of 1, that sum to ``length`` and differ by at most one."""
    count = math.ceil(length / max(1, most))
    return [(length + part) // count for part in range(count)]


def _slices(lengths: Sequence[int]) -> list[slice]:
    """Slices of these lengths, one after another."""
    return [slice(end - length, end) for length, end in zip(lengths, accumulate(lengths), strict=True)]


def _loaded(block: Tensor, dtype: torch.dtype) -> Tensor:
    """The block in the dtype, contiguous: itself if it is so already, else a copy."""
    if block.is_contiguous():
        return block.to(dtype)
    loaded = torch.empty(block.shape, dtype=dtype, device=block.device)
    for target, sample in zip(loaded, block, strict=True):  # PyTorch transposes matrices of one dtype tile by tile
        target.copy_(sample.to(dtype))
    return loaded


def _for_each(blocks: Sequence[_Block], work: Callable[[_Block], None]) -> None:
    """Call ``work`` with each block, on as many threads as PyTorch has; the results do not depend on their number."""

    @torch.inference_mode()  # not inherited by a thread
    def run(block: _Block) -> None:
        work(block)

    threads = torch.get_num_threads()
    results = map(run, blocks) if threads == 1 or len(blocks) == 1 else _workers(threads, os.getpid()).map(run, blocks)
    for _ in results:
        pass


@lru_cache(maxsize=1)
def _workers(count: int, process: int) -> ThreadPoolExecutor:
    """Threads whose operators run on one core each; those of a process are gone in its forks, hence ``process``."""
    all_there = threading.Barrier(count + 1)

    def start() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # the first question settles the answer for this thread
        all_there.wait()

    workers = ThreadPoolExecutor(count, "mcl_triton", start)
    for _ in range(count):
        workers.submit(int)
    all_there.wait()
    torch.set_num_threads(count)  # `set_num_threads` is about this thread and all that start later
    return workers
