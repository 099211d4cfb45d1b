"""The loss: the two components and their weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from . import operators
from .attention import Drop, draw_mask, dropped_channels, hashable_drop
from .backend import check_backend, uses_kernels, working_dtype
from .checks import (
    check_criterion,
    check_discriminality,
    check_features,
    check_generator,
    check_groups,
    check_mask,
    check_targets,
    check_weights,
)
from .groups import ChannelGroups, flat_runs
from .pooling import pool
from .tracing import is_under_functorch, once_per_device

Criterion = Callable[[Tensor, Tensor], Tensor]


class MCLossOutput(NamedTuple):
    """Result of `mc_loss` and `MCLoss`.

    Attributes:
        loss: the weighted sum, a scalar: what is added to the cross-entropy of the classifier.
        discriminality: L_dis, a scalar: the criterion of the class scores; smaller is better.
        diversity: L_div = mean of h, a scalar: how many different places a class's channels look at, from 1 to the
            (mean) number of channels of a class; larger is more diverse.
        scores: class scores g, (B, C).
    """

    loss: Tensor
    discriminality: Tensor
    diversity: Tensor
    scores: Tensor


def mc_loss(
    features: Tensor,
    targets: Tensor,
    groups: ChannelGroups,
    *,
    mask: Tensor | None = None,
    drop: Drop = "half",
    generator: torch.Generator | None = None,
    convention: str = "official",
    weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    ignore_index: int = -100,
    criterion: Criterion | None = None,
    backend: str = "auto",
) -> MCLossOutput:
    """The mutual-channel loss of a batch, to be added to the cross-entropy of the classifier.

    With (g, h) from [`channel_pool`][mcl_triton.channel_pool], L_dis = cross_entropy(g, targets) and ξ the channels of
    each class:

        convention="official", weights=(α, β):   loss = α * L_dis + β * (1 - (h / ξ).mean())
        convention="paper",    weights=(μ, λ):   loss = μ * (L_dis - λ * h.mean())

    Both reward diversity for positive weights; negative ones are refused. For groups of one size they are the same
    loss up to a constant where μ = α and λ = β / (α·ξ).

    Args:
        features: F, float32, bfloat16, float16 or float64, (B, N, H, W) in any memory format, or (B, N, P).
        targets: class indices (B,), integer; or class probabilities (B, C), floating, as mixup makes them. Anything
            else where ``criterion`` takes it.
        groups: which of the N channels belong to which of the C classes.
        mask: zeros and ones, (N,) or (B, N), in place of a random one; ``drop`` and ``generator`` are then not used.
        drop: how many channels of each class are zeroed at random in this call: ``"half"``, an integer, a fraction or
            one number per class, see [`sample_channel_mask`][mcl_triton.sample_channel_mask]; 0 for none.
        generator: source of randomness for the mask, on the device of the features. Where PyTorch has to repeat or
            trace the draw it cannot follow a generator (activation checkpointing, ``torch.compile``): draw the mask
            outside, and pass ``mask``.
        convention: ``"official"`` or ``"paper"``, the two formulas above.
        weights: (α, β), by default (1.5, 20), or (μ, λ), by default (0.005, 10). A component of weight 0 is reported,
            and nothing is computed for its gradient.
        label_smoothing: of the cross-entropy, in [0, 1].
        class_weights: of the cross-entropy, (C,).
        ignore_index: target of samples that the cross-entropy leaves out; diversity needs no target and counts them.
        criterion: ``criterion(scores, targets) -> scalar`` in place of the cross-entropy, for example binary
            cross-entropy for several labels an image.
        backend: see [`channel_pool`][mcl_triton.channel_pool].

    Returns:
        Loss, discriminality, diversity (scalars) and scores (B, C), float32, or float64 where the features are.

    Raises:
        TypeError, ValueError: an argument does not fit; the message says which and how. Targets out of range raise
            on the CPU. On a GPU looking at them would stall it: there the assertion of cross_entropy's kernel fails.
        ImportError: ``backend="triton"`` without Triton.
        NotImplementedError: forward-mode derivatives, gradients by `torch.func`, and `torch.jit.trace`.

    Source: IEEE TIP 2020, arXiv 2002.04264; the official convention is that of the authors' code.
    """
    check_groups(groups)
    first, second = check_weights(convention, weights)
    check_criterion(groups, criterion, label_smoothing, class_weights, ignore_index)
    check_features(features, groups)
    check_mask(mask, features)
    if criterion is None:
        check_targets(targets, features, groups, ignore_index)
    if class_weights is not None and class_weights.device != features.device:
        raise ValueError(
            f"class_weights are on {class_weights.device}, features are on {features.device}: move one of them. "
            "Those of an MCLoss move with it: loss.to(device)."
        )
    check_generator(generator)
    by_kernels = uses_kernels(backend, features.device)
    drop = hashable_drop(drop)

    if mask is None and drop != 0:
        mask = draw_mask(
            groups, drop, None, generator, device=features.device, dtype=working_dtype(features), by_kernels=by_kernels
        )
    constant, first, second, divides_by_size = _as_weighted_sum(convention, first, second)
    if by_kernels and criterion is None and _head_carries(targets, class_weights):
        return MCLossOutput(
            *operators.loss(
                features,
                flat_runs(groups),
                mask,
                targets,
                class_weights,
                ignore_index=ignore_index,
                label_smoothing=label_smoothing,
                constant=constant,
                first=first,
                second=second,
                divides_by_size=divides_by_size,
            )
        )

    scores, diversity_scores = pool(features, groups, mask, by_kernels=by_kernels)
    if criterion is None:
        discriminality = cross_entropy(
            scores,
            targets.to(scores.dtype) if targets.is_floating_point() else targets.long(),
            weight=None if class_weights is None else class_weights.to(scores.dtype),
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
        )
    else:
        discriminality = criterion(scores, targets)
        check_discriminality(discriminality)
    diversity = diversity_scores.mean()
    if not divides_by_size:
        loss = _weighted_sum(constant, first, discriminality, second, diversity)
    elif groups.is_uniform:
        loss = _weighted_sum(constant, first, discriminality, second / groups.sizes[0], diversity)
    else:
        inverse_sizes = _inverse_sizes(groups, diversity_scores.dtype, diversity_scores.device)
        loss = _weighted_sum(constant, first, discriminality, second, (diversity_scores * inverse_sizes).mean())
    return MCLossOutput(loss, discriminality, diversity, scores)


class MCLoss(nn.Module):
    """`mc_loss` as a module: same arguments, same formula, random masks in training only.

    In evaluation (``eval()``) nothing is dropped and nothing is random; a mask that is passed in is used all the same.
    It has no parameters, and no state of its own; class weights move with the module.

    Args:
        groups: which of the N channels belong to which of the C classes. All other arguments are those of
            [`mc_loss`][mcl_triton.mc_loss].

    Raises:
        TypeError, ValueError, ImportError: see `mc_loss`; what does not depend on a batch is checked when the module is
            made.

    Examples:
        >>> loss = MCLoss(ChannelGroups.split(512, 200), weights=(0.0005, 0.005))  # pretrained
        >>> output = loss(torch.rand(2, 512, 14, 14), torch.tensor([3, 199]))
        >>> output.loss.shape
        torch.Size([])
    """

    class_weights: Tensor | None

    if TYPE_CHECKING:  # that of nn.Module returns Any

        def __call__(self, features: Tensor, targets: Tensor, mask: Tensor | None = None) -> MCLossOutput: ...

    def __init__(
        self,
        groups: ChannelGroups,
        *,
        drop: Drop = "half",
        generator: torch.Generator | None = None,
        convention: str = "official",
        weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
        ignore_index: int = -100,
        criterion: Criterion | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_groups(groups)
        drop = hashable_drop(drop)
        dropped_channels(groups, drop)  # raises for what does not fit the groups
        check_generator(generator)
        check_backend(backend)
        check_criterion(groups, criterion, label_smoothing, class_weights, ignore_index)
        self.groups = groups
        self.drop = drop
        self.generator = generator
        self.convention = convention
        self.weights = check_weights(convention, weights)
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index
        self.criterion = criterion
        self.backend = backend
        # Not persistent: weights are a setting, and checkpoints load whether or not there are any.
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, features: Tensor, targets: Tensor, mask: Tensor | None = None) -> MCLossOutput:
        """The loss of a batch.

        Args:
            features: (B, N, H, W) or (B, N, P).
            targets: (B,) class indices or (B, C) class probabilities.
            mask: zeros and ones, (N,) or (B, N), used as it is; None draws one in training and keeps all in evaluation.

        Returns:
            Loss, discriminality, diversity (scalars) and scores (B, C), float32, or float64 where the features are.

        Raises:
            TypeError, ValueError, NotImplementedError: see [`mc_loss`][mcl_triton.mc_loss].
        """
        return mc_loss(
            features,
            targets,
            self.groups,
            mask=mask,
            drop=self.drop if self.training else 0,
            generator=self.generator,
            convention=self.convention,
            weights=self.weights,
            label_smoothing=self.label_smoothing,
            class_weights=self.class_weights,
            ignore_index=self.ignore_index,
            criterion=self.criterion,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        """The settings in one line."""
        return f"{self.groups!r}, drop={self.drop!r:.40}, convention={self.convention!r}, weights={self.weights}"


@once_per_device
def _inverse_sizes(groups: ChannelGroups, dtype: torch.dtype, device: torch.device) -> Tensor:
    """1/ξ of each class, (C,)."""
    return torch.tensor(groups.sizes, dtype=dtype, device="cpu").reciprocal().to(device)


def _as_weighted_sum(convention: str, first: float, second: float) -> tuple[float, float, float, bool]:
    """``constant``, ``first`` and ``second`` of the loss ``constant + first · L_dis + second · mean (r · h)``.

    Then whether r is 1/ξ; else it is 1.
    """
    if convention == "paper":  # μ · (L_dis − λ · mean h)
        return 0.0, first, -first * second, False
    return second, first, -second, True  # α · L_dis + β · (1 − mean h/ξ)


def _head_carries(targets: Tensor, class_weights: Tensor | None) -> bool:
    """Whether the loss head's kernel takes these; what it does not take is left to PyTorch's cross-entropy."""
    if targets.is_floating_point() or (class_weights is not None and class_weights.requires_grad):
        return False
    return not is_under_functorch()


def _weighted_sum(constant: float, first_weight: float, first: Tensor, second_weight: float, second: Tensor) -> Tensor:
    """``constant + first_weight * first + second_weight * second`` of scalars, one operation each.

    What has no weight is left out: it gets no gradient, so that nothing is computed for it in backward.
    """
    total = torch.tensor(constant, dtype=first.dtype, device="cpu")  # joins a GPU's scalar without a copy
    if first_weight or not second_weight:  # of two without, one is kept: the loss has its device and a graph
        total = torch.add(total, first, alpha=first_weight)
    if second_weight:
        total = torch.add(total, second, alpha=second_weight)
    return total
