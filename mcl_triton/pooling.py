"""The differentiable primitive: features -> class scores g and diversity scores h, (B, N, H, W) -> twice (B, C)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from . import operators
from .backend import uses_kernels, working_dtype
from .checks import check_features, check_groups, check_mask
from .groups import ChannelGroups, flat_runs


class ChannelPool(NamedTuple):
    """Result of `channel_pool`.

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
    The gradient is analytic and can be differentiated once. Between forward and backward it keeps the arguments; the
    kernels hold two numbers for each map besides. `class_scores` and `diversity_scores` give one of the two, at no cost
    for the other.

    Args:
        features: F, float32, bfloat16, float16 or float64, (B, N, H, W) in any memory format, or (B, N, P).
        groups: which of the N channels belong to which of the C classes.
        mask: M, zeros and ones of any real dtype, (N,) or one mask a sample (B, N); None keeps every channel. A masked
            channel counts as 0 in the maximum.
        backend: ``"triton"`` for the kernels, which need a GPU; ``"eager"`` for plain PyTorch; ``"auto"`` for the
            kernels where the features are on a CUDA or ROCm device and Triton is installed, plain PyTorch elsewhere
            and on NVIDIA GPUs of a compute capability below 7.0.

    Returns:
        Scores and diversity, both (B, C), float32, or float64 where the features are.

    Raises:
        TypeError: the features are no floating tensor, ``groups`` is no ChannelGroups, the mask no real tensor.
        ValueError: a shape, a device or the backend does not fit; the message says which.
        ImportError: ``backend="triton"`` without Triton.
        NotImplementedError: forward-mode derivatives, gradients by `torch.func`, and `torch.jit.trace`.

    Source: equations of the discriminality and the diversity component, IEEE TIP 2020, arXiv 2002.04264.
    """
    return ChannelPool(*_checked_pool(features, groups, mask, backend))


def class_scores(
    features: Tensor, groups: ChannelGroups, mask: Tensor | None = None, *, backend: str = "auto"
) -> Tensor:
    """The class scores g of `channel_pool` alone; there is no softmax. It takes and raises what `channel_pool` does.

    Returns:
        (B, C), float32, or float64 where the features are.
    """
    return _checked_pool(features, groups, mask, backend, wants_diversity=False)[0]


def diversity_scores(features: Tensor, groups: ChannelGroups, *, backend: str = "auto") -> Tensor:
    """The diversity scores h of `channel_pool` alone; they know no mask. It takes and raises what `channel_pool` does.

    Returns:
        (B, C), float32, or float64 where the features are.
    """
    return _checked_pool(features, groups, None, backend, wants_scores=False)[1]


def _checked_pool(
    features: Tensor,
    groups: ChannelGroups,
    mask: Tensor | None,
    backend: str,
    *,
    wants_scores: bool = True,
    wants_diversity: bool = True,
) -> tuple[Tensor, Tensor]:
    check_groups(groups)
    check_features(features, groups)
    check_mask(mask, features)
    by_kernels = uses_kernels(backend, features.device)
    return pool(
        features, groups, mask, wants_scores=wants_scores, wants_diversity=wants_diversity, by_kernels=by_kernels
    )


def pool(
    features: Tensor,
    groups: ChannelGroups,
    mask: Tensor | None,
    *,
    wants_scores: bool = True,
    wants_diversity: bool = True,
    by_kernels: bool,
) -> tuple[Tensor, Tensor]:
    """g and h of checked arguments; empty where not wanted."""
    return operators.pool(
        features,
        flat_runs(groups),
        None if mask is None else mask.to(working_dtype(features)),
        wants_scores=wants_scores,
        wants_diversity=wants_diversity,
        by_kernels=by_kernels,
    )
