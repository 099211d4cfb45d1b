"""The differentiable primitive: features -> class scores g and diversity scores h, (B, N, H, W) -> twice (B, C)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import eager
from .constants import values_are_readable
from .groups import ChannelGroups, require_groups

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class ChannelPool(NamedTuple):
    """What `channel_pool` returns.

    Attributes:
        scores: class scores g of the discriminality component, (B, C).
        diversity: diversity scores h, (B, C), each between 1 and the number of channels of its class, ξ.
    """

    scores: Tensor
    diversity: Tensor


def channel_pool(
    features: Tensor, groups: ChannelGroups, mask: Tensor | None = None, *, backend: str = "auto"
) -> ChannelPool:
    """Reduce the features to one class score g and one diversity score h for each sample and class.

    For each class i, with x the features as (B, N, P) and ``own`` the channels of class i::

        g[:, i] = (mask[..., None] * x)[:, own].max(dim=1).values.mean(dim=1)  # CWA, CCMP, GAP
        h[:, i] = x.softmax(dim=2)[:, own].max(dim=1).values.sum(dim=1)        # softmax, CCMP, sum

    computed in float32 (float64 for float64). Of equal channels the first is the maximum and takes the whole gradient.
    The gradient is analytic and holds nothing but the arguments between forward and backward. It can be
    differentiated once.

    Args:
        features: F, floating, (B, N, H, W) in any memory format, or (B, N, P).
        groups: which of the N channels belong to which of the C classes.
        mask: M, zeros and ones of any real dtype, (N,) or one mask a sample (B, N); None keeps every channel. A masked
            channel counts as 0 in the maximum.
        backend: ``"eager"`` for plain PyTorch, ``"triton"`` for the kernels, ``"auto"`` for what suits the device.

    Returns:
        `ChannelPool` of scores and diversity, both (B, C), float32, or float64 where the features are.

    Raises:
        TypeError: the features are no floating tensor, ``groups`` is no ChannelGroups, the mask no real tensor.
        ValueError: a shape, a device or the backend does not fit; the message says which.
        NotImplementedError: ``backend="triton"``, which is not there yet, and forward-mode derivatives.

    Source: equations of the discriminality and the diversity component, IEEE TIP 2020, arXiv 2002.04264.
    """
    check_arguments(features, groups, mask, backend)
    return pool_checked(features, groups, mask)


def pool_checked(features: Tensor, groups: ChannelGroups, mask: Tensor | None) -> ChannelPool:
    """`channel_pool` of arguments that `check_arguments` has seen."""
    if mask is not None:
        mask = mask.to(torch.promote_types(features.dtype, torch.float32))
    runs = [number for run in groups.runs for number in run]
    return ChannelPool(*_channel_pool(features, mask, runs))


def check_arguments(features: Tensor, groups: ChannelGroups, mask: Tensor | None, backend: str) -> None:
    """Raise TypeError or ValueError for what `channel_pool` does not take."""
    check_backend(backend)
    require_groups(groups)
    if not isinstance(features, Tensor):
        raise TypeError(f"features must be a tensor; got {type(features).__name__}.")
    if features.dtype not in _DTYPES:
        raise TypeError(
            f"features must be float32, bfloat16, float16 or float64; got {features.dtype}. "
            "They are the activations of a convolution, before any pooling; .float() converts others."
        )
    if features.layout != torch.strided:
        raise TypeError(
            f"features must be an ordinary dense tensor; got {features.layout}. .to_dense() converts others."
        )
    if torch.autograd.forward_ad.unpack_dual(features).tangent is not None:  # type: ignore[no-untyped-call]
        raise NotImplementedError("channel_pool has no forward-mode derivative (jvp, jacfwd); use reverse mode.")
    shape = tuple(features.shape)
    if features.dim() not in (3, 4):
        raise ValueError(f"features must be (B, N, H, W) or (B, N, P); got {features.dim()} dimensions, {shape}.")
    if shape[1] != groups.num_channels:
        raise ValueError(
            f"features have {shape[1]} channels, {shape}, but the groups have {groups.num_channels}: {groups!r}. "
            f"ChannelGroups.split({shape[1]}, num_classes={groups.num_classes}) divides the channels that are there."
        )
    if 0 in shape:
        raise ValueError(f"features must have at least one sample and one spatial position; got {shape}.")
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.is_complex():
        raise TypeError(f"mask must be a tensor of zeros and ones; got {getattr(mask, 'dtype', type(mask).__name__)}.")
    if tuple(mask.shape) not in ((shape[1],), shape[:2]):
        raise ValueError(f"mask must be {(shape[1],)} or {shape[:2]} for features {shape}; got {tuple(mask.shape)}.")
    if mask.device != features.device:
        raise ValueError(f"mask is on {mask.device}, features are on {features.device}: move one of them.")
    if mask.device.type == "cpu" and values_are_readable() and not ((mask == 0) | (mask == 1)).all():
        raise ValueError("mask must hold zeros and ones only: 1 for a channel that is kept, 0 for one that is masked.")
    if mask.requires_grad:
        raise ValueError("mask requires a gradient, and has none: it is a choice of channels. Pass mask.detach().")


def check_backend(backend: str) -> None:
    """Raise ValueError for an unknown backend, NotImplementedError for one that is not there."""
    if backend not in ("auto", "eager", "triton"):
        raise ValueError(f'backend must be "auto", "eager" or "triton"; got {backend!r}.')
    if backend == "triton":
        raise NotImplementedError('backend="triton" is not implemented yet; "auto" and "eager" run everywhere.')


@torch.library.custom_op("mcl_triton::channel_pool", mutates_args=())
def _channel_pool(features: Tensor, mask: Tensor | None, runs: list[int]) -> tuple[Tensor, Tensor]:
    return eager.forward(features, runs, mask)


@_channel_pool.register_fake
def _(features: Tensor, mask: Tensor | None, runs: list[int]) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(features.dtype, torch.float32)
    shape = (features.shape[0], sum(runs[::2]))
    return features.new_empty(shape, dtype=dtype), features.new_empty(shape, dtype=dtype)


@torch.library.custom_op("mcl_triton::channel_pool_backward", mutates_args=())
def _channel_pool_backward(
    features: Tensor, mask: Tensor | None, runs: list[int], grad_scores: Tensor | None, grad_diversity: Tensor | None
) -> Tensor:
    return eager.backward(features, runs, mask, grad_scores, grad_diversity)


@_channel_pool_backward.register_fake
def _(
    features: Tensor, mask: Tensor | None, runs: list[int], grad_scores: Tensor | None, grad_diversity: Tensor | None
) -> Tensor:
    return torch.empty_like(features)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    features, mask, runs = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(features, mask)
    ctx.runs = runs


def _backward(ctx: Any, grad_scores: Tensor | None, grad_diversity: Tensor | None) -> tuple[Tensor | None, None, None]:
    if grad_scores is None and grad_diversity is None:
        return None, None, None
    features, mask = ctx.saved_tensors
    return _channel_pool_backward(features, mask, ctx.runs, grad_scores, grad_diversity), None, None


def _no_second_derivative(ctx: Any, grad: Tensor) -> None:
    raise RuntimeError(
        "channel_pool can be differentiated once: its gradient has no gradient of its own. "
        "Where a second derivative is needed (gradient penalties, Hessians), use the plain formula in its docstring."
    )


_channel_pool.register_autograd(_backward, setup_context=_save_for_backward)
_channel_pool_backward.register_autograd(_no_second_derivative)
