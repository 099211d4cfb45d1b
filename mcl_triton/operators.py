"""The custom operators: what autograd, `torch.compile` and fake tensors know about the pooling and the mask.

One pair of operators pools for both backends. Each has a shorter way past PyTorch's dispatcher, see `are_plain`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import eager
from .backend import working_dtype
from .tracing import are_plain


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
    saves_statistics = by_kernels and wants_diversity and features.requires_grad and torch.is_grad_enabled()
    operator = _ChannelPool.apply if are_plain(features) else _channel_pool
    scores, diversity, *_ = operator(features, runs, mask, wants_scores, wants_diversity, saves_statistics, by_kernels)
    return scores, diversity


def mask_of_keys(keys: Tensor, offsets: Tensor, dropped: Tensor, longest: int, dtype: torch.dtype) -> Tensor:
    """The mask that zeroes the channels with the smallest keys of each class; arguments as in `host.channel_mask`."""
    operator = _mask if are_plain(keys) else _mask_operator
    mask: Tensor = operator(keys, offsets, dropped, longest, dtype)
    return mask


def _forward(
    features: Tensor,
    runs: Sequence[int],
    mask: Tensor | None,
    wants_scores: bool,
    wants_diversity: bool,
    saves_statistics: bool,
    by_kernels: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if by_kernels:
        from .kernels import host  # Triton is not imported before it is needed

        return host.forward(
            features,
            runs,
            mask,
            wants_scores=wants_scores,
            wants_diversity=wants_diversity,
            saves_statistics=saves_statistics,
        )
    scores, diversity = eager.forward(features, runs, mask, wants_scores, wants_diversity)
    return scores, diversity, features.new_empty(0), scores.new_empty(0)


_channel_pool = torch.library.custom_op("mcl_triton::channel_pool", _forward, mutates_args=())


@_channel_pool.register_fake
def _(
    features: Tensor,
    runs: Sequence[int],
    mask: Tensor | None,
    wants_scores: bool,
    wants_diversity: bool,
    saves_statistics: bool,
    by_kernels: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = working_dtype(features)
    shape = (features.shape[0], sum(runs[::2]))
    statistics_shape = features.shape[:2] if saves_statistics and by_kernels else (0,)
    return (
        features.new_empty(shape if wants_scores else (0,), dtype=dtype),
        features.new_empty(shape if wants_diversity else (0,), dtype=dtype),
        features.new_empty(statistics_shape),
        features.new_empty(statistics_shape, dtype=dtype),
    )


def _gradient(
    features: Tensor,
    runs: Sequence[int],
    mask: Tensor | None,
    grad_scores: Tensor | None,
    grad_diversity: Tensor | None,
    maxima: Tensor | None,
    inverse_sums: Tensor | None,
    by_kernels: bool,
) -> Tensor:
    if by_kernels:
        from .kernels import host

        return host.backward(
            features,
            runs,
            mask,
            grad_scores=grad_scores,
            grad_diversity=grad_diversity,
            maxima=maxima,
            inverse_sums=inverse_sums,
        )
    return eager.backward(features, runs, mask, grad_scores, grad_diversity)


_channel_pool_backward = torch.library.custom_op("mcl_triton::channel_pool_backward", _gradient, mutates_args=())


@_channel_pool_backward.register_fake
def _(
    features: Tensor,
    runs: Sequence[int],
    mask: Tensor | None,
    grad_scores: Tensor | None,
    grad_diversity: Tensor | None,
    maxima: Tensor | None,
    inverse_sums: Tensor | None,
    by_kernels: bool,
) -> Tensor:
    return torch.empty_like(features)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    features, ctx.runs, mask, *wanted, saves_statistics, ctx.by_kernels = inputs
    results, statistics = output[:2], output[2:]
    unwanted = [result for result, is_wanted in zip(results, wanted, strict=True) if not is_wanted]
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*unwanted, *statistics)
    ctx.save_for_backward(features, mask, *(statistics if saves_statistics else (None, None)))


def _backward(
    ctx: Any, grad_scores: Tensor | None, grad_diversity: Tensor | None, *_: None
) -> tuple[Tensor | None, None, None, None, None, None, None]:
    grad = None
    if grad_scores is not None or grad_diversity is not None:
        features, mask, maxima, inverse_sums = ctx.saved_tensors
        # A gradient that is to be differentiated is left to the operator, which says that it cannot be.
        plain = are_plain(features, grad_scores, grad_diversity) and not torch.is_grad_enabled()
        operator = _gradient if plain else _channel_pool_backward
        grad = operator(features, ctx.runs, mask, grad_scores, grad_diversity, maxima, inverse_sums, ctx.by_kernels)
    return grad, None, None, None, None, None, None


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
        _save_for_backward(ctx, inputs, output)
        return output

    backward = staticmethod(_backward)


def _mask(keys: Tensor, offsets: Tensor, dropped: Tensor, longest: int, dtype: torch.dtype) -> Tensor:
    from .kernels import host

    return host.channel_mask(keys, offsets, dropped, longest, dtype)


_mask_operator = torch.library.custom_op("mcl_triton::channel_mask", _mask, mutates_args=())


@_mask_operator.register_fake
def _(keys: Tensor, offsets: Tensor, dropped: Tensor, longest: int, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(keys, dtype=dtype)
