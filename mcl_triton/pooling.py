"""The differentiable primitive: features -> class scores g and diversity scores h, (B, N, H, W) -> twice (B, C)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import eager
from .backend import check_backend, uses_kernels
from .groups import ChannelGroups, flat_runs, require_groups
from .kernels.tables import tables_of
from .tracing import are_plain, is_differentiated_by_functorch, values_are_readable

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

    For each class i, with x the features as (B, N, P) and ``own`` the channels of class i:

        g[:, i] = (mask[..., None] * x)[:, own].max(dim=1).values.mean(dim=1)  # CWA, CCMP, GAP
        h[:, i] = x.softmax(dim=2)[:, own].max(dim=1).values.sum(dim=1)        # softmax, CCMP, sum

    computed in float32 (float64 for float64). Of equal channels the first is the maximum and takes the whole gradient.
    The gradient is analytic and can be differentiated once. Between forward and backward it holds the arguments; the
    kernels hold two numbers for each map besides. `class_scores` and `diversity_scores` give one of the two, at no cost
    for the other.

    Args:
        features: F, float32, bfloat16, float16 or float64, (B, N, H, W) in any memory format, or (B, N, P).
        groups: which of the N channels belong to which of the C classes.
        mask: M, zeros and ones of any real dtype, (N,) or one mask a sample (B, N); None keeps every channel. A masked
            channel counts as 0 in the maximum.
        backend: ``"triton"`` for the kernels, which need a GPU; ``"eager"`` for plain PyTorch; ``"auto"`` for the
            kernels where the features are on a CUDA or ROCm device and Triton is installed, plain PyTorch elsewhere.

    Returns:
        Scores and diversity, both (B, C), float32, or float64 where the features are.

    Raises:
        TypeError: the features are no floating tensor, ``groups`` is no ChannelGroups, the mask no real tensor.
        ValueError: a shape, a device or the backend does not fit; the message says which.
        ImportError: ``backend="triton"`` without Triton.
        NotImplementedError: forward-mode derivatives, and gradients by `torch.func`.

    Source: equations of the discriminality and the diversity component, IEEE TIP 2020, arXiv 2002.04264.
    """
    check_arguments(features, groups, mask, backend)
    return ChannelPool(*pool_checked(features, groups, mask, backend))


def class_scores(
    features: Tensor, groups: ChannelGroups, mask: Tensor | None = None, *, backend: str = "auto"
) -> Tensor:
    """The class scores g of `channel_pool` alone; there is no softmax. It takes and raises what `channel_pool` does.

    Returns:
        (B, C), float32, or float64 where the features are.
    """
    check_arguments(features, groups, mask, backend)
    return pool_checked(features, groups, mask, backend, wants_diversity=False)[0]


def diversity_scores(features: Tensor, groups: ChannelGroups, *, backend: str = "auto") -> Tensor:
    """The diversity scores h of `channel_pool` alone; they know no mask. It takes and raises what `channel_pool` does.

    Returns:
        (B, C), float32, or float64 where the features are.
    """
    check_arguments(features, groups, None, backend)
    return pool_checked(features, groups, None, backend, wants_scores=False)[1]


def pool_checked(
    features: Tensor,
    groups: ChannelGroups,
    mask: Tensor | None,
    backend: str,
    wants_scores: bool = True,
    wants_diversity: bool = True,
) -> tuple[Tensor, Tensor]:
    """g and h of arguments that `check_arguments` has seen; empty where not wanted."""
    if mask is not None:
        mask = mask.to(eager.working_dtype(features))
    runs = flat_runs(groups)
    by_kernels = uses_kernels(backend, features.device)
    if by_kernels:  # made now: memory that an operator takes belongs to the CUDA graph it may be captured in
        tables_of(tuple(runs), features.device)
    saves_statistics = by_kernels and wants_diversity and features.requires_grad and torch.is_grad_enabled()
    operator = _ChannelPool.apply if are_plain(features) else _channel_pool
    scores, diversity, *_ = operator(features, mask, runs, wants_scores, wants_diversity, saves_statistics, by_kernels)
    return scores, diversity


def check_arguments(features: Tensor, groups: ChannelGroups, mask: Tensor | None, backend: str) -> None:
    """Raise TypeError or ValueError for what `channel_pool` does not take."""
    require_groups(groups)
    require_dense("features", features)
    if features.dtype not in _DTYPES:
        raise TypeError(
            f"features must be float32, bfloat16, float16 or float64; got {features.dtype}. "
            "They are the activations of a convolution, before any pooling; .float() converts others."
        )
    if torch.autograd.forward_ad.unpack_dual(features).tangent is not None:  # type: ignore[no-untyped-call]
        raise NotImplementedError("channel_pool has no forward-mode derivative (jvp, jacfwd); use reverse mode.")
    if is_differentiated_by_functorch(features):
        raise NotImplementedError(
            "channel_pool has no gradient under torch.func (grad, vjp, jacrev); use torch.autograd.grad or backward()."
        )
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
    check_backend(backend)
    uses_kernels(backend, features.device)  # raises for a device without kernels
    if mask is None:
        return
    require_dense("mask", mask)
    if mask.is_complex():
        raise TypeError(f"mask must be a tensor of zeros and ones; got {mask.dtype}.")
    if tuple(mask.shape) != shape[1:2] and tuple(mask.shape) != shape[:2]:
        raise ValueError(f"mask must be {(shape[1],)} or {shape[:2]} for features {shape}; got {tuple(mask.shape)}.")
    if mask.device != features.device:
        raise ValueError(f"mask is on {mask.device}, features are on {features.device}: move one of them.")
    if mask.device.type == "cpu" and values_are_readable() and not ((mask == 0) | (mask == 1)).all():
        raise ValueError("mask must hold zeros and ones only: 1 for a channel that is kept, 0 for one that is masked.")
    if mask.requires_grad:
        raise ValueError("mask requires a gradient, and has none: it is a choice of channels. Pass mask.detach().")


def require_dense(name: str, value: object) -> None:
    """Raise TypeError, with its name, for anything but a tensor whose elements all lie in memory, one shape for all."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor; got {type(value).__name__}.")
    if value.layout != torch.strided or value.is_nested:
        given = "a nested one" if value.is_nested else value.layout
        raise TypeError(f"{name} must be an ordinary dense tensor; got {given}. .to_dense() converts sparse ones.")


# One pair of operators for both backends: what autograd, torch.compile and fake tensors need to know is the same.


def _forward(
    features: Tensor,
    mask: Tensor | None,
    runs: list[int],
    wants_scores: bool,
    wants_diversity: bool,
    saves_statistics: bool,
    by_kernels: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if by_kernels:
        from .kernels import host  # Triton is not imported before it is needed

        return host.forward(features, runs, mask, wants_scores, wants_diversity, saves_statistics)
    scores, diversity = eager.forward(features, runs, mask, wants_scores, wants_diversity)
    return scores, diversity, features.new_empty(0), scores.new_empty(0)


_channel_pool = torch.library.custom_op("mcl_triton::channel_pool", _forward, mutates_args=())


@_channel_pool.register_fake
def _(
    features: Tensor,
    mask: Tensor | None,
    runs: list[int],
    wants_scores: bool,
    wants_diversity: bool,
    saves_statistics: bool,
    by_kernels: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = eager.working_dtype(features)
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
    mask: Tensor | None,
    runs: list[int],
    grad_scores: Tensor | None,
    grad_diversity: Tensor | None,
    maxima: Tensor | None,
    inverse_sums: Tensor | None,
    by_kernels: bool,
) -> Tensor:
    if by_kernels:
        from .kernels import host

        return host.backward(features, runs, mask, grad_scores, grad_diversity, maxima, inverse_sums)
    return eager.backward(features, runs, mask, grad_scores, grad_diversity)


_channel_pool_backward = torch.library.custom_op("mcl_triton::channel_pool_backward", _gradient, mutates_args=())


@_channel_pool_backward.register_fake
def _(
    features: Tensor,
    mask: Tensor | None,
    runs: list[int],
    grad_scores: Tensor | None,
    grad_diversity: Tensor | None,
    maxima: Tensor | None,
    inverse_sums: Tensor | None,
    by_kernels: bool,
) -> Tensor:
    return torch.empty_like(features)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    features, mask, ctx.runs, *wanted, saves_statistics, ctx.by_kernels = inputs
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
        grad = operator(features, mask, ctx.runs, grad_scores, grad_diversity, maxima, inverse_sums, ctx.by_kernels)
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
