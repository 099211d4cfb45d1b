"""The custom operators: what autograd, `torch.compile` and fake tensors know about the pooling and the mask.

One pair of operators pools for both backends. Each has a shorter way past PyTorch's dispatcher, see `are_plain`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from . import eager
from .backend import working_dtype
from .kernels.tables import dtype_of_winners, tables_of
from .tracing import are_plain, is_in_functorch


def pool(
    features: Tensor,
    runs: Sequence[int],
    mask: Tensor | None,
    *,
    wants_scores: bool,
    wants_diversity: bool,
    by_kernels: bool,
) -> tuple[Tensor, Tensor]:
    """Class scores g and diversity scores h, (B, C) each, differentiable; empty where not wanted.

    Args:
        features: F, (B, N, ...), floating.
        runs: how many classes, how many channels each, how many classes, ...: `ChannelGroups.runs` in one list.
        mask: M, (N,) or (B, N), zeros and ones in the working dtype; None keeps every channel.
        wants_scores, wants_diversity: which of the two.
        by_kernels: whether the kernels compute, or plain PyTorch.
    """
    is_fused = torch.compiler.is_compiling() and features.device.type == "cpu" and not by_kernels
    if is_fused and not is_in_functorch() and eager.formula_is_faster(features, runs):
        return eager.formula(features, runs, mask, wants_scores, wants_diversity)
    saves = features.requires_grad and torch.is_grad_enabled()
    operator = _ChannelPool.apply
    if not are_plain(features, mask):
        operator = _channel_pool
        if by_kernels:
            _make_tables(runs, features.device)
    scores, diversity, *_ = operator(features, runs, mask, wants_scores, wants_diversity, saves, by_kernels)
    return scores, diversity


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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The whole loss by the kernels: loss, L_dis and L_div, scalars, and the class scores g, (B, C); differentiable.

    Args:
        features, runs, mask: as in `pool`.
        others: as in `host.loss`.
    """
    saves_gradient = features.requires_grad and torch.is_grad_enabled()
    operator = _Loss.apply
    if not are_plain(features, mask, targets, class_weights):
        _make_tables(runs, features.device)
        operator = _mc_loss
    total, discriminality, mean_diversity, scores, *_ = operator(
        features,
        runs,
        mask,
        targets,
        class_weights,
        ignore_index,
        label_smoothing,
        constant,
        first,
        second,
        divides_by_size,
        saves_gradient,
    )
    return total, discriminality, mean_diversity, scores


def mask_of_keys(keys: Tensor, offsets: Tensor, dropped: Tensor, longest: int, dtype: torch.dtype) -> Tensor:
    """The mask that zeroes the channels with the smallest keys of each class; arguments as in `host.channel_mask`."""
    operator = _mask if are_plain(keys) else _mask_operator
    mask: Tensor = operator(keys, offsets, dropped, longest, dtype)
    return mask


@cache
def _host() -> Any:
    """The launches of the kernels; Triton is not imported before it is needed."""
    from .kernels import host

    return host


def _make_tables(runs: Sequence[int], device: torch.device) -> None:
    """Make what the kernels read besides, before the operator: memory taken inside belongs to a CUDA graph."""
    tables_of(tuple(runs), device)


def _forward(
    features: Tensor,
    runs: Sequence[int],
    mask: Tensor | None,
    wants_scores: bool,
    wants_diversity: bool,
    saves: bool,
    by_kernels: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if by_kernels:
        results: tuple[Tensor, Tensor, Tensor, Tensor] = _host().forward(
            features,
            runs,
            mask,
            wants_scores=wants_scores,
            wants_diversity=wants_diversity,
            saves=saves,
        )
        return results
    return eager.forward(features, runs, mask, wants_scores=wants_scores, wants_diversity=wants_diversity, saves=saves)


def _saved(features: Tensor, runs: Sequence[int], saves: bool, wants_diversity: bool) -> tuple[Tensor, Tensor]:
    """Statistics and winners in the shapes and dtypes of `host.forward`."""
    batch, channels, *sides = features.shape
    statistics = features.new_empty(
        (2, batch, channels) if saves and wants_diversity else (0,), dtype=working_dtype(features)
    )
    winners = (batch, sum(runs[::2]) * math.prod(sides)) if saves else (0,)
    return statistics, features.new_empty(winners, dtype=dtype_of_winners(tuple(runs)))


_channel_pool = torch.library.custom_op("mcl_triton::channel_pool", _forward, mutates_args=())


@_channel_pool.register_fake
def _(
    features: Tensor,
    runs: Sequence[int],
    mask: Tensor | None,
    wants_scores: bool,
    wants_diversity: bool,
    saves: bool,
    by_kernels: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = working_dtype(features)
    shape = (features.shape[0], sum(runs[::2]))
    return (
        features.new_empty(shape if wants_scores else (0,), dtype=dtype),
        features.new_empty(shape if wants_diversity else (0,), dtype=dtype),
        *(
            _saved(features, runs, saves, wants_diversity)
            if by_kernels
            else eager.saved(features, runs, saves and wants_scores, saves and wants_diversity)
        ),
    )


def _gradient(
    features: Tensor,
    runs: Sequence[int],
    mask: Tensor | None,
    grad_scores: Tensor | None,
    grad_diversity: Tensor | None,
    statistics: Tensor | None,
    winners: Tensor | None,
    grad_loss: Tensor | None,
    by_kernels: bool,
) -> Tensor:
    if by_kernels:
        grad: Tensor = _host().backward(
            features,
            runs,
            mask,
            grad_scores=grad_scores,
            grad_diversity=grad_diversity,
            statistics=statistics,
            winners=winners,
            grad_loss=grad_loss,
        )
        return grad
    return eager.backward(features, runs, mask, grad_scores, grad_diversity, statistics, winners)


_channel_pool_backward = torch.library.custom_op("mcl_triton::channel_pool_backward", _gradient, mutates_args=())


@_channel_pool_backward.register_fake
def _(
    features: Tensor,
    runs: Sequence[int],
    mask: Tensor | None,
    grad_scores: Tensor | None,
    grad_diversity: Tensor | None,
    statistics: Tensor | None,
    winners: Tensor | None,
    grad_loss: Tensor | None,
    by_kernels: bool,
) -> Tensor:
    return torch.empty_like(features)


def _save_for_backward(
    ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...], takes_short_way: bool = False
) -> None:
    ctx.takes_short_way = takes_short_way
    features, ctx.runs, mask, *wanted, saves, ctx.by_kernels = inputs
    results, statistics = output[:2], output[2:]
    unwanted = [result for result, is_wanted in zip(results, wanted, strict=True) if not is_wanted]
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*unwanted, *statistics)
    ctx.save_for_backward(features, mask, *(statistics if saves else (None, None)))


def _backward(
    ctx: Any, grad_scores: Tensor | None, grad_diversity: Tensor | None, *_: None
) -> tuple[Tensor | None, None, None, None, None, None, None]:
    features, mask, statistics, winners = ctx.saved_tensors
    grad = _gradient_of_features(
        features,
        ctx.runs,
        mask,
        grad_scores,
        grad_diversity,
        statistics,
        winners,
        None,
        ctx.by_kernels,
        ctx.takes_short_way,
    )
    return grad, None, None, None, None, None, None


def _gradient_of_features(
    features: Tensor,
    runs: Sequence[int],
    mask: Tensor | None,
    grad_scores: Tensor | None,
    grad_diversity: Tensor | None,
    statistics: Tensor | None,
    winners: Tensor | None,
    grad_loss: Tensor | None,
    by_kernels: bool,
    takes_short_way: bool,
) -> Tensor | None:
    """dF by `_gradient`, the shorter way if forward took it, too; None where no gradient arrives."""
    if grad_scores is None and grad_diversity is None:
        return None
    # A gradient that is to be differentiated is left to the operator, which says that it cannot be.
    plain = takes_short_way and not torch.is_grad_enabled() and are_plain(grad_scores, grad_diversity, grad_loss)
    operator = _gradient if plain else _channel_pool_backward
    grad: Tensor = operator(
        features, runs, mask, grad_scores, grad_diversity, statistics, winners, grad_loss, by_kernels
    )
    return grad


def _no_second_derivative(ctx: Any, grad: Tensor) -> None:
    raise RuntimeError(
        "channel_pool can be differentiated once: its gradient has no gradient of its own. "
        "Where a second derivative is needed (gradient penalties, Hessians), use the plain formula in its docstring."
    )


_channel_pool.register_autograd(_backward, setup_context=_save_for_backward)
_channel_pool_backward.register_autograd(_no_second_derivative)


class _ChannelPool(torch.autograd.Function):
    """The operator by a shorter way than PyTorch's dispatcher, which takes the host longer than the kernels' launch."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        output = _forward(*inputs)
        _save_for_backward(ctx, inputs, output, takes_short_way=True)
        return output

    backward = staticmethod(_backward)


def _loss(
    features: Tensor,
    runs: Sequence[int],
    mask: Tensor | None,
    targets: Tensor,
    class_weights: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    constant: float,
    first: float,
    second: float,
    divides_by_size: bool,
    saves_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    results: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor] = _host().loss(
        features,
        runs,
        mask,
        targets,
        class_weights,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        constant=constant,
        first=first,
        second=second,
        divides_by_size=divides_by_size,
        saves_gradient=saves_gradient,
    )
    return results


_mc_loss = torch.library.custom_op("mcl_triton::mc_loss", _loss, mutates_args=())


@_mc_loss.register_fake
def _(
    features: Tensor,
    runs: Sequence[int],
    mask: Tensor | None,
    targets: Tensor,
    class_weights: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    constant: float,
    first: float,
    second: float,
    divides_by_size: bool,
    saves_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    scores = features.new_empty((features.shape[0], sum(runs[::2])), dtype=working_dtype(features))
    return (
        scores.new_empty(()),
        scores.new_empty(()),
        scores.new_empty(()),
        scores,
        scores.new_empty(scores.shape if saves_gradient else (0,)),
        scores.new_empty(scores.shape[1] if saves_gradient else 0),
        *_saved(features, runs, saves_gradient, True),
    )


def _save_loss_for_backward(
    ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...], takes_short_way: bool = False
) -> None:
    ctx.takes_short_way = takes_short_way
    features, ctx.runs, mask, targets, class_weights, *ctx.options, ctx.saves_gradient = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(features, mask, targets, class_weights, *output[4:])


def _set_up_loss(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[4:])
    _save_loss_for_backward(ctx, inputs, output)


def _loss_backward(
    ctx: Any,
    grad_loss: Tensor | None,
    grad_discriminality: Tensor | None,
    grad_mean_diversity: Tensor | None,
    grad_scores: Tensor | None,
    *_: None,
) -> tuple[Tensor | None, ...]:
    features, mask, targets, class_weights, *saved = ctx.saved_tensors
    if not ctx.saves_gradient:  # under vmap nothing says that the features require a gradient
        saved = _mc_loss(features, ctx.runs, mask, targets, class_weights, *ctx.options, True)[4:]
    dg, dh, statistics, winners = saved
    *_, first, second, _ = ctx.options
    grads: tuple[Tensor | None, Tensor | None]
    if grad_discriminality is None and grad_mean_diversity is None and grad_scores is None:
        # Those for grad_loss = 1; the kernel multiplies by it.
        grads = (dg if first else None, dh if second else None) if grad_loss is not None else (None, None)
    else:
        # A gradient arrives at a component or at the scores: rare, and left to PyTorch.
        of_loss = 0.0 if grad_loss is None else grad_loss
        of_dis = 0.0 if grad_discriminality is None else grad_discriminality
        of_div = 0.0 if grad_mean_diversity is None else grad_mean_diversity
        grads = (
            (of_loss + of_dis / first if first else of_dis) * dg + (0.0 if grad_scores is None else grad_scores),
            (of_loss if second else 0.0) * dh.expand_as(dg) + of_div / dg.numel(),
        )
        grad_loss = None
    grad = _gradient_of_features(
        features, ctx.runs, mask, *grads, statistics, winners, grad_loss, True, ctx.takes_short_way
    )
    return torch.zeros_like(features) if grad is None else grad, *[None] * 11


_mc_loss.register_autograd(_loss_backward, setup_context=_set_up_loss)


class _Loss(torch.autograd.Function):
    """`_mc_loss` by a shorter way, as `_ChannelPool`; what backward needs is no output."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        output = _loss(*inputs)
        _save_loss_for_backward(ctx, inputs, output, takes_short_way=True)
        return output[:4]

    backward = staticmethod(_loss_backward)


def _mask(keys: Tensor, offsets: Tensor, dropped: Tensor, longest: int, dtype: torch.dtype) -> Tensor:
    mask: Tensor = _host().channel_mask(keys, offsets, dropped, longest, dtype)
    return mask


_mask_operator = torch.library.custom_op("mcl_triton::channel_mask", _mask, mutates_args=())


@_mask_operator.register_fake
def _(keys: Tensor, offsets: Tensor, dropped: Tensor, longest: int, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(keys, dtype=dtype)
