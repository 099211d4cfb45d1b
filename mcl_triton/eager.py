"""The two reductions and their gradient in plain PyTorch, arranged for the CPU; they run on any device.

Forward saves the softmax and the winners, so that backward computes neither again. Large features are cut into blocks
of whole groups. Each thread takes one block after another and runs some ten operators on it, all on its own core. So
the cores wait for each other once per direction, not once per operator: on a busy machine that wait is what takes the
time. `docs/cpu.md` has the measurements.
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

# Elements of a block. Smaller ones leave more of the time to Python.
BLOCK_SIZE = 1 << 20
# With several threads, features of at most so many blocks are one block, whose operators PyTorch divides among them: to
# deal blocks takes longer there. In other layouts than the contiguous one there are more operators, each with a wait.
BLOCKS_IN_ONE = {True: 4, False: 2}  # by whether the features are contiguous


def forward(
    features: Tensor,
    runs: Sequence[int],
    mask: Tensor | None,
    *,
    wants_scores: bool = True,
    wants_diversity: bool = True,
    saves: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Class scores g and diversity scores h, and what backward needs.

    Args:
        features: F, (B, N, ...), floating.
        runs: how many classes, how many channels each, how many classes, ...: `ChannelGroups.runs` in one list.
        mask: M, (N,) or (B, N), zeros and ones in the dtype of the results; None keeps every channel.
        wants_scores, wants_diversity: whether g and h are wanted.
        saves: whether there may be a backward.

    Returns:
        g and h, (B, C), float32, or float64 where the features are, empty where not wanted; and `saved`.
    """
    maps = features.flatten(2)  # [B, N, P]
    dtype = working_dtype(features)
    attention, winners = saved(features, runs, wants_scores and saves, wants_diversity and saves)
    shape = (maps.shape[0], sum(runs[::2]))
    scores = features.new_empty(shape if wants_scores else 0, dtype=dtype)
    diversity = features.new_empty(shape if wants_diversity else 0, dtype=dtype)
    kept = None if mask is None else mask.expand(maps.shape[:2]).unsqueeze(2)

    def pool(block: _Block) -> None:
        own = maps[block.channels]
        x = _loaded(own, dtype)
        buffer = torch.empty_like(x)  # memory that nothing writes costs nothing
        if wants_diversity:
            s = torch.softmax(x, 2, out=attention[block.channels] if saves and block.is_view else buffer)
            if saves and not block.is_view:
                attention[block.channels] = s
            diversity[block.classes] = pooled(block, s, 0, torch.sum)
        if wants_scores:
            masked = buffer if x.data_ptr() == own.data_ptr() else x
            attended = x if kept is None else torch.mul(x, kept[block.channels], out=masked)  # CWA: M·F
            scores[block.classes] = pooled(block, attended, -1, torch.mean)

    def pooled(block: _Block, values: Tensor, number: int, over_positions: Callable[[Tensor, int], Tensor]) -> Tensor:
        by_size, places = zip(*(_maxima(own, over_positions) for own in block.by_size(values)), strict=True)
        if saves:
            own_winners = _joined(places)
            winners[number][block.classes] = own_winners if block.is_view else own_winners.to(winners.dtype)
        return _joined(by_size)

    _for_each(_blocks(maps, runs), pool)
    return scores, diversity, attention, winners


def saved(features: Tensor, runs: Sequence[int], for_scores: bool, for_diversity: bool) -> tuple[Tensor, Tensor]:
    """Memory for what forward saves; empty where it saves nothing.

    Returns:
        The softmax s, (B, N, P), and the winners W_h and W_g, those that are saved, (2, B, C, P): which channel of its
        class, from 0 to ξ - 1, is the maximum of s and of M·F at a position, the first of equals.
    """
    batch, channels, *sides = features.shape
    positions = math.prod(sides)
    of_attention = (batch, channels, positions) if for_diversity else (0,)
    of_winners = (for_scores + for_diversity, batch, sum(runs[::2]), positions)
    dtype = torch.uint8 if max(runs[1::2]) <= 256 else torch.int32
    return (
        features.new_empty(of_attention, dtype=working_dtype(features)),
        features.new_empty(of_winners, dtype=dtype),
    )


def backward(
    features: Tensor,
    runs: Sequence[int],
    mask: Tensor | None,
    grad_scores: Tensor | None,
    grad_diversity: Tensor | None,
    attention: Tensor | None,
    winners: Tensor | None,
) -> Tensor:
    """The gradient of the features, given that of g and h (None where there is none)::

        dF[b,j,k] = dh[b,i] · s[b,j,k] · ([W_h[k] = j] − w[b,j])  +  dg[b,i] / P · M_j · [W_g[k] = j]

    with s the softmax, W_h and W_g the winning channel at position k, the first of equals, and w the sum of s over the
    positions that a channel wins.

    Args:
        features, runs, mask: as in `forward`.
        grad_scores: dg, (B, C).
        grad_diversity: dh, (B, C).
        attention, winners: s, W_h and W_g, as `forward` saved them; None computes them here.

    Returns:
        dF in the shape, dtype and memory layout of the features.
    """
    if attention is None or winners is None:
        *_, attention, winners = forward(features, runs, mask, saves=True)
    dtype = working_dtype(features)
    grad = torch.empty_like(features)
    grad_maps = grad.flatten(2)  # [B, N, P], a view unless the layout is an odd one
    kept = None if mask is None else mask.expand(grad_maps.shape[:2]).unsqueeze(2)

    def differentiate(block: _Block) -> None:
        target = grad_maps[block.channels]
        is_target = block.is_view and target.dtype == dtype and target.is_contiguous()
        out = target if is_target else torch.empty(target.shape, dtype=dtype, device=target.device)
        out.zero_()
        if grad_diversity is not None:
            dh = block.by_class(grad_diversity[block.classes])
            places = block.by_class(winners[0][block.classes].long())
            for own, own_places, own_dh in zip(block.by_size(out), places, dh, strict=True):
                _add_at(own, own_places, own_dh)
            torch.ops.aten._softmax_backward_data(out, attention[block.channels], 2, dtype, grad_input=out)
        if grad_scores is not None:
            dg = block.by_class(grad_scores[block.classes] / out.shape[2])
            places = block.by_class(winners[-1][block.classes].long())
            own_kept = [None] * len(dg) if kept is None else block.by_size(kept[block.channels])
            for own, own_places, own_dg, factor in zip(block.by_size(out), places, dg, own_kept, strict=True):
                _add_at(own, own_places, own_dg, factor)
        if not is_target:
            grad_maps[block.channels] = out.to(grad.dtype)

    _for_each(_blocks(grad_maps, runs), differentiate)
    return grad if grad_maps.data_ptr() == grad.data_ptr() else grad.copy_(grad_maps.view(grad.shape))


def formula(
    features: Tensor, runs: Sequence[int], mask: Tensor | None, wants_scores: bool, wants_diversity: bool
) -> tuple[Tensor, Tensor]:
    """`forward` in the plainest operators, which autograd differentiates and `torch.compile` fuses."""
    x = features.flatten(2).to(working_dtype(features))
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


def formula_is_faster(features: Tensor, runs: Sequence[int]) -> bool:
    """Whether a compiler should get `formula`: not for many channels per class in `channels_last`.

    Inductor's maximum over channels that lie side by side takes twice the time of `forward` and `backward` there, and
    less than theirs for two or three channels per class or contiguous features: `docs/cpu.md`.
    """
    channels_per_class = features.shape[1] / sum(runs[::2])  # ξ
    return channels_per_class < 8 or features.is_contiguous()


def _maxima(groups: Tensor, over_positions: Callable[[Tensor, int], Tensor]) -> tuple[Tensor, Tensor]:
    """The maximum over the ξ channels of [b, n, ξ, P] groups, reduced to [b, n], and which channel it is, [b, n, P].

    To `max_pool2d` the channels are rows and the positions are channels, innermost in memory: the case that it has
    vectorised. `max(dim)` is not.
    """
    shape = (*groups.shape[:2], -1)
    rows = groups.flatten(0, 1).unsqueeze(2).permute(0, 3, 1, 2)  # [b·n, P, ξ, 1]
    maxima, places = max_pool2d_with_indices(rows, (groups.shape[2], 1))
    reduced = over_positions(maxima.reshape(shape), 2)
    if groups.device.type != "cpu" or reduced.isnan().any():  # of several NaNs, max_pool2d takes the last
        maxima, places = groups.max(2)
        reduced = over_positions(maxima, 2)
    return reduced, places.reshape(shape)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """The parts one after another along the classes: without a copy if there is only one."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)


def _add_at(groups: Tensor, places: Tensor, values: Tensor, kept: Tensor | None = None) -> None:
    """Add the values, times those of the mask, to the channel of each group that is the maximum at a position.

    Args:
        groups: [b, n, ξ, P].
        places: which of the ξ channels, [b, n, P], int64.
        values: [b, n].
        kept: M, [b, n, ξ, 1].
    """
    index = places.unsqueeze(2)
    added = values[:, :, None, None].expand_as(index)
    if kept is not None:
        added = added * kept.expand_as(groups).gather(2, index)
    groups.scatter_add_(2, index, added)


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
        """Views of (b, channels, P) as [b, n, ξ, P], for each size ξ."""
        own_channels = torch.split(values, [count * size for count, size in self.runs], 1)
        return [torch.unflatten(own, 1, run) for own, run in zip(own_channels, self.runs, strict=True)]

    def by_class(self, values: Tensor) -> tuple[Tensor, ...]:
        """Views of (b, classes, ...) as [b, n, ...], for each size ξ."""
        return torch.split(values, [count for count, _ in self.runs], 1)


def _blocks(maps: Tensor, runs: Sequence[int]) -> list[_Block]:
    """Cut (B, N, P) features into blocks of several samples, or of some classes of one sample if that is too large."""
    batch, channels, positions = maps.shape
    largest, threads = maps.numel(), torch.get_num_threads()
    in_one = BLOCKS_IN_ONE[maps.is_contiguous()] if threads > 1 else 1
    if maps.device.type == "cpu" and largest > in_one * BLOCK_SIZE:
        largest = min(BLOCK_SIZE, largest // threads)
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
