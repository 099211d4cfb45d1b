"""The two reductions and their gradient by the kernels: what `eager` does in plain PyTorch.

What a launch needs besides its tensors follows from sizes, strides and dtypes: it is prepared once for each of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..backend import working_dtype
from . import gradient, head, masks, position_blocks, whole_maps
from .launch import (
    Cut,
    Strides,
    choose_backward,
    choose_for_head,
    choose_for_mask,
    choose_for_statistics,
    choose_forward,
    choose_to_combine,
    choose_to_sum,
    pieces_of,
)
from .shortcut import Prepared
from .tables import dtype_of_winners, tables_of

Sizes = tuple[int, ...]


def forward(
    features: Tensor,
    runs: Sequence[int],
    mask: Tensor | None,
    *,
    wants_scores: bool,
    wants_diversity: bool,
    saves: bool,
    finished: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Class scores g, diversity scores h, and what `backward` needs.

    Args:
        features: F, (B, N, ...), floating.
        runs: how many classes, how many channels each, how many classes, ...: `ChannelGroups.runs` in one list.
        mask: M, (N,) or (B, N), zeros and ones in the dtype of the results; None keeps every channel.
        wants_scores, wants_diversity: whether g and h are wanted.
        saves: whether backward will follow.
        finished: int32, set to 0 on the way, for the loss head.

    Returns:
        g and h, (B, C), float32, or float64 where the features are; the statistics of the softmax, (2, B, N), in the
        dtype of g: the maximum of each map, and 1 / Σ exp(F − maximum); the winners W_h and W_g of each class and
        position, packed, (B, C · P), in the order of the features' memory. Empty where not wanted.
    """
    runs = tuple(runs)
    maps = _with_joined_positions(features)
    batch, channels = maps.shape[:2]
    dtype = working_dtype(maps)
    shape = (batch, sum(runs[::2]))
    winners = maps.new_empty(
        (batch, shape[1] * _num_positions(maps.shape)) if saves else 0, dtype=dtype_of_winners(runs)
    )
    prepared = _prepare_forward(
        runs,
        maps.shape,
        maps.stride(),
        maps.element_size(),
        None if mask is None else mask.stride(),
        wants_scores,
        wants_diversity,
        saves,
        finished is not None,
    )
    tables = tables_of(runs, maps.device)
    scores = maps.new_empty(shape if wants_scores else 0, dtype=dtype)
    diversity = maps.new_empty(shape if wants_diversity else 0, dtype=dtype)
    keeps_statistics = wants_diversity and (saves or prepared.statistics is not None)
    statistics = maps.new_empty((2, batch, channels) if keeps_statistics else 0, dtype=dtype)
    common = {
        "features": maps,
        "mask": maps if mask is None else mask,
        "offsets": tables.offsets,
        "statistics": statistics,
        "winners": winners,
        "finished": tables.offsets if finished is None else finished,
    }
    if prepared.sum is not None:
        if prepared.statistics is not None:
            prepared.statistics(maps.device, features=maps, statistics=statistics)
        sums = maps.new_empty((2, prepared.blocks, *shape), dtype=dtype)
        prepared.forward(maps.device, **common, block_sums=sums)
        prepared.sum(maps.device, block_sums=sums, scores=scores, diversity=diversity)
        return scores, diversity, statistics if saves else scores.new_empty(0), winners
    of_parts = (batch, prepared.parts, _num_positions(maps.shape))
    part_maxima = maps.new_empty((2, *of_parts) if prepared.parts else 0, dtype=dtype)
    part_winners = maps.new_empty(of_parts if prepared.parts else 0, dtype=dtype_of_winners(runs))
    prepared.forward(
        maps.device,
        **common,
        pieces=tables.offsets if prepared.cut is None else tables.pieces[prepared.cut],
        bundles=tables.offsets if prepared.cut is None else tables.bundles[prepared.cut],
        scores=scores,
        diversity=diversity,
        part_maxima=part_maxima,
        part_winners=part_winners,
    )
    if prepared.combine is not None and prepared.cut is not None:
        prepared.combine(
            maps.device,
            splits=tables.splits[prepared.cut],
            part_maxima=part_maxima,
            part_winners=part_winners,
            scores=scores,
            diversity=diversity,
            winners=winners,
        )
    return scores, diversity, statistics, winners


def backward(
    features: Tensor,
    runs: Sequence[int],
    mask: Tensor | None,
    *,
    grad_scores: Tensor | None,
    grad_diversity: Tensor | None,
    statistics: Tensor | None,
    winners: Tensor | None,
    grad_loss: Tensor | None = None,
) -> Tensor:
    """The gradient of the features, given that of g and h (None where there is none); the formula is in `eager`.

    Args:
        features, runs, mask: as in `forward`.
        grad_scores: dg, (B, C), of any strides.
        grad_diversity: dh, likewise, or (C,), the same for each sample.
        statistics, winners: from `forward`; None if it did not save them.
        grad_loss: a scalar in the dtype of dg that dg and dh are multiplied by.

    Returns:
        dF in the shape, dtype and memory layout of the features.
    """
    if winners is None:  # under vmap nothing says that the features require a gradient
        *_, statistics, winners = forward(
            features,
            runs,
            mask,
            wants_scores=grad_scores is not None,
            wants_diversity=grad_diversity is not None,
            saves=True,
        )
    runs = tuple(runs)
    maps = _with_joined_positions(features)
    grad = torch.empty_like(features)
    grad_maps = grad if _joined(grad.shape, grad.stride()) is not None else torch.empty_like(maps)
    launch = _prepare_backward(
        runs,
        maps.shape,
        maps.stride(),
        grad_maps.shape,
        grad_maps.stride(),
        maps.element_size(),
        None if mask is None else mask.stride(),
        None if grad_scores is None else grad_scores.stride(),
        None if grad_diversity is None else grad_diversity.stride(),
        grad_loss is not None,
    )
    tables = tables_of(runs, maps.device)
    launch(
        maps.device,
        features=maps,
        grad=grad_maps,
        mask=maps if mask is None else mask,
        class_of_channel=tables.class_of_channel,
        offsets=tables.offsets,
        grad_scores=maps if grad_scores is None else grad_scores,
        grad_diversity=maps if grad_diversity is None else grad_diversity,
        statistics=maps if statistics is None else statistics,
        winners=winners,
        grad_loss=maps if grad_loss is None else grad_loss,
    )
    return grad if grad_maps is grad else grad.copy_(grad_maps.view(grad.shape))


class Loss(NamedTuple):
    """The loss, and what its gradient needs besides; see `kernels.head`.

    Attributes:
        loss, discriminality, mean_diversity: scalars.
        scores: g, (B, C).
        grad_scores: first · ∂L_dis/∂g, (B, C); without the factor where it is 0. Empty where no gradient is wanted.
        grad_diversity: second · ∂(mean of r·h)/∂h of each class, (C,), likewise.
        statistics, winners: as `forward` returns them.
    """

    loss: Tensor
    discriminality: Tensor
    mean_diversity: Tensor
    scores: Tensor
    grad_scores: Tensor
    grad_diversity: Tensor
    statistics: Tensor
    winners: Tensor


def loss(
    features: Tensor,
    runs: Sequence[int],
    mask: Tensor | None,
    targets: Tensor,
    class_weights: Tensor | None,
    *,
    ignore_index: int,
    label_smoothing: float,
    constant: float,
    first: float,
    second: float,
    divides_by_size: bool,
    saves_gradient: bool,
) -> Loss:
    """The whole loss, ``constant + first · L_dis + second · mean (r · h)``, in two launches.

    Args:
        features, runs, mask: as in `forward`.
        targets: class indices, (B,), of any integer dtype.
        class_weights: (C,), of any real dtype.
        ignore_index, label_smoothing: of the cross-entropy.
        constant, first, second: see `kernels.head`.
        divides_by_size: whether r is 1/ξ; else it is 1.
        saves_gradient: whether backward will follow.
    """
    finished = torch.empty(1, dtype=torch.int32, device=features.device)
    scores, diversity, statistics, winners = forward(
        features,
        runs,
        mask,
        wants_scores=True,
        wants_diversity=True,
        saves=saves_gradient,
        finished=finished,
    )
    batch, num_classes = scores.shape
    total = scores.new_empty(())
    discriminality, mean_diversity = torch.empty_like(total), torch.empty_like(total)
    grad_scores = torch.empty_like(scores) if saves_gradient else scores.new_empty(0)
    grad_diversity = scores.new_empty(num_classes if saves_gradient else 0)
    launch = _prepare_head(
        batch,
        num_classes,
        targets.stride(0),
        None if class_weights is None else class_weights.stride(0),
        ignore_index,
        bool(label_smoothing),
        bool(first),
        bool(second),
        divides_by_size,
        saves_gradient,
    )
    launch(
        features.device,
        {"label_smoothing": label_smoothing, "constant": constant, "first": first, "second": second},
        scores=scores,
        diversity=diversity,
        targets=targets,
        class_weights=scores if class_weights is None else class_weights,
        offsets=tables_of(tuple(runs), features.device).offsets,
        finished=finished,
        sums=scores.new_empty(3 * launch.programs),
        loss=total,
        discriminality=discriminality,
        mean_diversity=mean_diversity,
        grad_scores=grad_scores,
        grad_diversity=grad_diversity,
    )
    return Loss(total, discriminality, mean_diversity, scores, grad_scores, grad_diversity, statistics, winners)


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
    launch = _prepare_mask(keys.shape, dropped.shape[0], longest)
    launch(keys.device, keys=keys, offsets=offsets, dropped=dropped, mask=mask)
    return mask


class _Forward(NamedTuple):
    """The launches of forward.

    Attributes:
        forward: of whole maps or position blocks.
        cut: how the groups are cut into pieces; None if they are not.
        parts: how many pieces are part of a class.
        combine: the launch that combines those; None without.
        statistics: the launch before, for h of large maps; None for others.
        sum: the launch that adds what the blocks of large maps have found; None for others.
        blocks: how many blocks a large map has; 0 for others.
    """

    forward: Prepared
    cut: Cut | None = None
    parts: int = 0
    combine: Prepared | None = None
    statistics: Prepared | None = None
    sum: Prepared | None = None
    blocks: int = 0


@lru_cache(maxsize=1024)
def _prepare_forward(
    runs: tuple[int, ...],
    shape: Sizes,
    strides: Sizes,
    itemsize: int,
    mask_strides: Sizes | None,
    wants_scores: bool,
    wants_diversity: bool,
    saves: bool,
    resets_finished: bool,
) -> _Forward:
    of_maps = _strides(shape, strides)
    batch = shape[0]
    launch = choose_forward(runs, batch, _num_positions(shape), itemsize, of_maps)
    numbers = {
        **_stride_numbers(of_maps),
        **_winner_strides(of_maps, runs, shape),
        **_mask_strides(mask_strides),
        **_sizes(runs, shape),
        "HAS_MASK": mask_strides is not None,
        "WANTS_SCORES": wants_scores,
        "WANTS_DIVERSITY": wants_diversity,
        "SAVES": saves,
        "RESETS_FINISHED": resets_finished,
        **launch.constants,
        "num_programs": launch.programs,
    }
    programs = batch * launch.programs
    if launch.kernels == "position_blocks":
        before = choose_for_statistics(shape[1], batch, itemsize, of_maps)
        statistics = Prepared(
            position_blocks.statistics_kernel, batch * before.programs, {**numbers, **before.constants}
        )
        num_results = batch * numbers["num_classes"]
        of_sum = choose_to_sum(num_results)
        add = Prepared(
            position_blocks.sum_kernel,
            -(-num_results // of_sum["TILE_RESULTS"]),
            {**numbers, **of_sum, "num_results": num_results},
        )
        return _Forward(
            Prepared(position_blocks.forward_kernel, programs, numbers),
            statistics=statistics if wants_diversity else None,
            sum=add,
            blocks=launch.constants["BLOCKS"],
        )
    if launch.cut is None:
        return _Forward(Prepared(whole_maps.forward_kernel, programs, {**numbers, "num_parts": 0}))
    pieces = pieces_of(runs, launch.cut)
    numbers |= {"num_parts": pieces.num_parts, "num_splits": len(pieces.splits) // 3}
    combine = Prepared(
        whole_maps.combine_kernel,
        batch * numbers["num_splits"],
        {**numbers, **choose_to_combine(_num_positions(shape), max(pieces.splits[2::3], default=1), itemsize)},
    )
    return _Forward(
        Prepared(whole_maps.forward_kernel, programs, numbers),
        launch.cut,
        pieces.num_parts,
        combine if pieces.num_parts else None,
    )


@lru_cache(maxsize=1024)
def _prepare_backward(
    runs: tuple[int, ...],
    shape: Sizes,
    strides: Sizes,
    grad_shape: Sizes,
    grad_strides: Sizes,
    itemsize: int,
    mask_strides: Sizes | None,
    grad_scores_strides: Sizes | None,
    grad_diversity_strides: Sizes | None,
    has_grad_loss: bool,
) -> Prepared:
    of_maps, of_grad = _strides(shape, strides), _strides(grad_shape, grad_strides)
    launch = choose_backward(runs, shape[0], _num_positions(shape), itemsize, of_maps)
    dg_sample, dg_class = grad_scores_strides or (0, 0)
    dh_sample, dh_class = (0, *(grad_diversity_strides or (0,)))[-2:]
    numbers = {
        **_stride_numbers(of_maps),
        **{f"GRAD_{name}": stride for name, stride in _stride_numbers(of_grad).items()},
        **_winner_strides(of_maps, runs, shape),
        **_mask_strides(mask_strides),
        "grad_scores_sample_stride": dg_sample,
        "grad_scores_class_stride": dg_class,
        "grad_diversity_sample_stride": dh_sample,
        "grad_diversity_class_stride": dh_class,
        **_sizes(runs, shape),
        "HAS_MASK": mask_strides is not None,
        "HAS_GRAD_SCORES": grad_scores_strides is not None,
        "HAS_GRAD_DIVERSITY": grad_diversity_strides is not None,
        "HAS_GRAD_LOSS": has_grad_loss,
        **launch.constants,
    }
    return Prepared(gradient.backward_kernel, shape[0] * launch.programs, numbers)


@lru_cache(maxsize=256)
def _prepare_mask(shape: Sizes, num_classes: int, longest: int) -> Prepared:
    constants = choose_for_mask(longest)
    masks_of_batch = shape[0] if len(shape) == 2 else 1
    programs = masks_of_batch * -(-num_classes // constants["TILE_CLASSES"])
    return Prepared(masks.mask_kernel, programs, {"num_classes": num_classes, "num_channels": shape[-1], **constants})


@lru_cache(maxsize=256)
def _prepare_head(
    batch: int,
    num_classes: int,
    targets_stride: int,
    class_weights_stride: int | None,
    ignore_index: int,
    has_smoothing: bool,
    has_first: bool,
    has_second: bool,
    divides_by_size: bool,
    saves_gradient: bool,
) -> Prepared:
    constants = choose_for_head(num_classes)
    numbers = {
        "targets_stride": targets_stride,
        "class_weights_stride": class_weights_stride or 0,
        "batch": batch,
        "num_classes": num_classes,
        "ignore_index": ignore_index,
        "HAS_CLASS_WEIGHTS": class_weights_stride is not None,
        "HAS_SMOOTHING": has_smoothing,
        "HAS_FIRST": has_first,
        "HAS_SECOND": has_second,
        "DIVIDES_BY_SIZE": divides_by_size,
        "SAVES_GRADIENT": saves_gradient,
        "sanitize_overflow": False,  # which the assertion's mode would turn on, in every sum of integers
    }
    return Prepared(head.head_kernel, min(batch, constants["TILE_SAMPLES"]), {**numbers, **constants})


def forget_launches() -> None:
    """Prepare all launches anew, with rules or kernels that have changed."""
    for cached in (_prepare_forward, _prepare_backward, _prepare_mask, _prepare_head):
        cached.cache_clear()


def _with_joined_positions(features: Tensor) -> Tensor:
    """Features whose H and W are one dimension in memory: themselves, or a copy (B, N, P)."""
    return features if _joined(features.shape, features.stride()) is not None else features.flatten(2)


def _joined(shape: Sizes, strides: Sizes) -> int | None:
    """The stride of the positions, (B, N, P) or (B, N, H, W); None where H and W cannot be joined."""
    if len(shape) == 3:
        return strides[2]
    _, _, height, width = shape
    if height == 1 or (width > 1 and strides[2] == width * strides[3]):
        return strides[3]
    return strides[2] if width == 1 else None


def _num_positions(shape: Sizes) -> int:
    return shape[2] if len(shape) == 3 else shape[2] * shape[3]


def _strides(shape: Sizes, strides: Sizes) -> Strides:
    """The strides of maps (B, N, P); those of a dimension of size 1 mean nothing, and must not spoil the alignment."""
    position = _joined(shape, strides)
    assert position is not None
    return Strides(
        strides[0] if shape[0] > 1 else 0,
        strides[1] if shape[1] > 1 else 0,
        position if _num_positions(shape) > 1 else 1,
    )


def _stride_numbers(strides: Strides) -> dict[str, int]:
    """As the kernels take them: constants, so that the compiler sees alignment, and adds addresses up beforehand."""
    return {"SAMPLE_STRIDE": strides.sample, "CHANNEL_STRIDE": strides.channel, "POSITION_STRIDE": strides.position}


def _winner_strides(strides: Strides, runs: tuple[int, ...], shape: Sizes) -> dict[str, int]:
    """Winners lie as the features do: with positions or classes side by side."""
    if strides.position == 1:
        return {"WINNER_CLASS_STRIDE": _num_positions(shape), "WINNER_POSITION_STRIDE": 1}
    return {"WINNER_CLASS_STRIDE": 1, "WINNER_POSITION_STRIDE": sum(runs[::2])}


def _sizes(runs: tuple[int, ...], shape: Sizes) -> dict[str, int]:
    return {
        "batch": shape[0],
        "num_classes": sum(runs[::2]),
        "num_channels": shape[1],
        "NUM_CHANNELS": shape[1],  # for the kernel whose rows are channels: how well aligned its last tile is
        "NUM_POSITIONS": _num_positions(shape),
    }


def _mask_strides(strides: Sizes | None) -> dict[str, int]:
    sample, channel = (0, *(strides or (0,)))[-2:]
    return {"mask_sample_stride": sample, "mask_channel_stride": channel}
