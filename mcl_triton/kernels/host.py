"""The two reductions and their gradient by the kernels: what `eager` does in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..backend import working_dtype
from . import masks, position_blocks, whole_maps
from .launch import Launch, Strides, choose, choose_for_mask
from .tables import tables_of

_MODULES: dict[str, Any] = {"whole_maps": whole_maps, "position_blocks": position_blocks}


def forward(
    features: Tensor,
    runs: Sequence[int],
    mask: Tensor | None,
    wants_scores: bool,
    wants_diversity: bool,
    saves_statistics: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Class scores g, diversity scores h, and the statistics of the softmax for `backward`.

    Args:
        features: F, (B, N, ...), floating.
        runs: how many classes, how many channels each, how many classes, ...: `ChannelGroups.runs` in one list.
        mask: M, (N,) or (B, N), zeros and ones in the dtype of the results; None keeps every channel.
        wants_scores, wants_diversity: whether g and h are wanted.
        saves_statistics: whether backward of the diversity scores will follow.

    Returns:
        g and h, (B, C), float32, or float64 where the features are; the maximum of each map, (B, N), in the dtype of
        the features; 1 / Σ exp(F − maximum) of each map, (B, N), in the dtype of g. Empty where not wanted.
    """
    maps, strides = _maps(features)
    batch, channels, _ = maps.shape
    dtype = working_dtype(features)
    shape = (batch, sum(runs[::2]))
    scores = maps.new_empty(shape if wants_scores else 0, dtype=dtype)
    diversity = maps.new_empty(shape if wants_diversity else 0, dtype=dtype)
    maxima = maps.new_empty((batch, channels) if saves_statistics else 0)
    inverse_sums = maps.new_empty(maxima.shape, dtype=dtype)
    launch = choose(tuple(runs), maps.shape[2], maps.element_size(), strides)
    kernel = _MODULES[launch.kernels].forward_kernel
    with _device_of(maps):
        kernel[(_programs(launch, batch),)](
            maps,
            maps if mask is None else mask,
            *_table_arguments(launch, runs, maps.device),
            scores,
            diversity,
            maxima,
            inverse_sums,
            *_stride_arguments(launch, strides),
            *_mask_strides(mask),
            *_size_arguments(launch, runs, maps),
            **launch.constants,
            HAS_MASK=mask is not None,
            WANTS_SCORES=wants_scores,
            WANTS_DIVERSITY=wants_diversity,
            SAVES_STATISTICS=saves_statistics,
        )
    return scores, diversity, maxima, inverse_sums


def backward(
    features: Tensor,
    runs: Sequence[int],
    mask: Tensor | None,
    grad_scores: Tensor | None,
    grad_diversity: Tensor | None,
    maxima: Tensor | None,
    inverse_sums: Tensor | None,
) -> Tensor:
    """The gradient of the features, given that of g and h (None where there is none); the formula is in `eager`.

    Args:
        features, runs, mask: as in `forward`.
        grad_scores: dg, (B, C), of any strides.
        grad_diversity: dh, likewise.
        maxima, inverse_sums: from `forward`; None if it did not save them.

    Returns:
        dF in the shape, dtype and memory layout of the features.
    """
    if grad_diversity is not None and maxima is None:  # under vmap nothing says that the features require a gradient
        *_, maxima, inverse_sums = forward(features, runs, None, False, True, True)
    maps, strides = _maps(features)
    grad = torch.empty_like(features)
    try:
        grad_maps = grad.view(maps.shape)
    except RuntimeError:  # an odd layout, whose H and W cannot be joined
        grad_maps = torch.empty_like(maps)
    grad_strides = _strides(grad_maps)
    launch = choose(tuple(runs), maps.shape[2], maps.element_size(), strides, grad_strides)
    kernel = _MODULES[launch.kernels].backward_kernel
    with _device_of(maps):
        kernel[(_programs(launch, maps.shape[0]),)](
            maps,
            grad_maps,
            maps if mask is None else mask,
            *_table_arguments(launch, runs, maps.device),
            maps if grad_scores is None else grad_scores,
            maps if grad_diversity is None else grad_diversity,
            maps if maxima is None else maxima,
            maps if inverse_sums is None else inverse_sums,
            *_stride_arguments(launch, strides),
            *_stride_arguments(launch, grad_strides),
            *_mask_strides(mask),
            *((0, 0) if grad_scores is None else grad_scores.stride()),
            *((0, 0) if grad_diversity is None else grad_diversity.stride()),
            *_size_arguments(launch, runs, maps),
            **launch.constants,
            HAS_MASK=mask is not None,
            HAS_GRAD_SCORES=grad_scores is not None,
            HAS_GRAD_DIVERSITY=grad_diversity is not None,
        )
    return grad if grad_maps.data_ptr() == grad.data_ptr() else grad.copy_(grad_maps.view(grad.shape))


def channel_mask(keys: Tensor, offsets: Tensor, dropped: Tensor, longest: int, dtype: torch.dtype) -> Tensor:
    """The mask that zeroes the channels with the smallest keys of each class.

    Args:
        keys: (N,) or (B, N) int64, contiguous.
        offsets: first channel of each class, and N, (C + 1,) int32.
        dropped: how many channels each class loses, (C,) int32.
        longest: channels of the largest class.
        dtype: of the mask.

    Returns:
        Ones and zeros in the shape of the keys.
    """
    mask = torch.empty_like(keys, dtype=dtype)
    num_channels, num_classes = keys.shape[-1], dropped.shape[0]
    constants = choose_for_mask(longest)
    tiles = -(-num_classes // constants["TILE_CLASSES"])
    with _device_of(keys):
        masks.mask_kernel[(keys.numel() // num_channels * tiles,)](
            keys, offsets, dropped, mask, num_classes, num_channels, **constants
        )
    return mask


def _maps(features: Tensor) -> tuple[Tensor, Strides]:
    """(B, N, P) and its strides; a copy where H and W cannot be joined."""
    maps = features.flatten(2)
    return maps, _strides(maps)


def _strides(maps: Tensor) -> Strides:
    """The strides of maps (B, N, P); those of a dimension of size 1 mean nothing, and must not spoil the alignment."""
    sample, channel, position = maps.stride()
    batch, channels, positions = maps.shape
    return Strides(sample if batch > 1 else 0, channel if channels > 1 else 0, position if positions > 1 else 1)


def _programs(launch: Launch, batch: int) -> int:
    return batch * (len(launch.cuts) - 1)


def _table_arguments(launch: Launch, runs: Sequence[int], device: torch.device) -> list[Tensor]:
    offsets, cuts = tables_of(tuple(runs), device)
    return [offsets] if launch.kernels == "whole_maps" else [offsets, cuts[launch.way]]


def _stride_arguments(launch: Launch, strides: Strides) -> tuple[int, ...]:
    """The strides as the kernels take them: those that must be aligned in units of the alignment."""
    alignment = launch.constants["ALIGNMENT"]
    sample, channel, position = strides
    if launch.kernels == "whole_maps":
        return sample // alignment, channel // alignment
    if launch.constants["CHANNELS_LAST"]:
        return sample // alignment, channel, position // alignment
    return sample // alignment, channel // alignment, position


def _size_arguments(launch: Launch, runs: Sequence[int], maps: Tensor) -> tuple[int, ...]:
    _, channels, positions = maps.shape
    if launch.kernels == "whole_maps":
        return sum(runs[::2]), channels
    return sum(runs[::2]), channels, positions, len(launch.cuts) - 1


def _mask_strides(mask: Tensor | None) -> tuple[int, int]:
    if mask is None:
        return 0, 0
    return (0, mask.stride(0)) if mask.dim() == 1 else (mask.stride(0), mask.stride(1))


def _device_of(maps: Tensor) -> AbstractContextManager[None]:
    """Kernels are launched on the current device, which need not be that of the features."""
    return torch.cuda.device(maps.device) if maps.is_cuda else nullcontext()
