"""The loss: the two components and their weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .attention import Drop, check_generator, dropped_channels, hashable_drop, sample_channel_mask
from .backend import check_backend
from .groups import ChannelGroups, require_groups
from .pooling import check_arguments, pool_checked, require_dense
from .tracing import once_per_device, values_are_readable

Criterion = Callable[[Tensor, Tensor], Tensor]

_DEFAULT_WEIGHTS = {"official": (1.5, 20.0), "paper": (0.005, 10.0)}


class MCLossOutput(NamedTuple):
    """What `mc_loss` and `MCLoss` return.

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
            one number a class, see [`sample_channel_mask`][mcl_triton.sample_channel_mask]; 0 for none.
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
        NotImplementedError: forward-mode derivatives, and gradients by `torch.func`.

    Source: IEEE TIP 2020, arXiv 2002.04264; the official convention is that of the authors' code.
    """
    require_groups(groups)
    weights = _check_weights(convention, weights)
    _check_criterion(groups, criterion, label_smoothing, class_weights, ignore_index)
    check_arguments(features, groups, mask, backend)
    if criterion is None:
        targets = _check_targets(targets, features, groups, ignore_index)
    if class_weights is not None and class_weights.device != features.device:
        raise ValueError(
            f"class_weights are on {class_weights.device}, features are on {features.device}: move one of them. "
            "Those of an MCLoss move with it: loss.to(device)."
        )
    drop = hashable_drop(drop)
    if mask is None and drop != 0:
        mask = sample_channel_mask(groups, drop=drop, generator=generator, device=features.device, backend=backend)
    scores, diversity_scores = pool_checked(features, groups, mask, backend)
    if criterion is None:
        discriminality = cross_entropy(
            scores,
            targets.to(scores.dtype) if targets.is_floating_point() else targets,
            weight=None if class_weights is None else class_weights.to(scores.dtype),
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
        )
    else:
        discriminality = criterion(scores, targets)
        if (
            not isinstance(discriminality, Tensor)
            or discriminality.dim() != 0
            or not discriminality.is_floating_point()
        ):
            raise ValueError(
                f"criterion must return a floating scalar tensor; got {_describe(discriminality)}. "
                "Does it reduce by a mean?"
            )
    diversity = diversity_scores.mean()
    first, second = weights
    if convention == "paper":  # μ · (L_dis − λ · mean h)
        loss = _weighted_sum(0.0, first, discriminality, -first * second, diversity)
    elif groups.is_uniform:  # α · L_dis + β · (1 − mean h/ξ)
        loss = _weighted_sum(second, first, discriminality, -second / groups.sizes[0], diversity)
    else:
        inverse_sizes = _inverse_sizes(groups, diversity_scores.dtype, diversity_scores.device)
        fraction = (diversity_scores * inverse_sizes).mean()
        loss = _weighted_sum(second, first, discriminality, -second, fraction)
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
        require_groups(groups)
        drop = hashable_drop(drop)
        dropped_channels(groups, drop)  # raises for what does not fit the groups
        check_generator(generator)
        check_backend(backend)
        _check_criterion(groups, criterion, label_smoothing, class_weights, ignore_index)
        self.groups = groups
        self.drop = drop
        self.generator = generator
        self.convention = convention
        self.weights = _check_weights(convention, weights)
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


def _check_weights(convention: str, weights: Sequence[float] | None) -> tuple[float, float]:
    if not isinstance(convention, str) or convention not in _DEFAULT_WEIGHTS:
        raise ValueError(f'convention must be "official" or "paper"; got {convention!r}.')
    names = "(alpha, beta)" if convention == "official" else "(mu, lambda)"
    if weights is None:
        return _DEFAULT_WEIGHTS[convention]
    try:
        if not isinstance(weights, (list, tuple)):
            raise TypeError
        first, second = (float(weight) for weight in weights)
    except (TypeError, ValueError):
        raise TypeError(f"weights must be a list or tuple of two numbers, {names}; got {weights!r:.200}.") from None
    if not (0 <= first < math.inf and 0 <= second < math.inf):
        raise ValueError(
            f"weights {names} must be finite and not negative; got ({first}, {second}). "
            "Diversity is rewarded already for positive weights: the sign is part of the formula."
        )
    return first, second


def _check_criterion(
    groups: ChannelGroups,
    criterion: Criterion | None,
    label_smoothing: float,
    class_weights: Tensor | None,
    ignore_index: int,
) -> None:
    if not isinstance(label_smoothing, (int, float)) or not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be a float from 0 to 1; got {label_smoothing!r:.200}.")
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
        raise TypeError(f"ignore_index must be an integer, of type int; got {ignore_index!r:.200}.")
    if class_weights is not None:
        require_dense("class_weights", class_weights)
        if class_weights.is_complex():
            raise TypeError(f"class_weights must be a tensor of real numbers; got {class_weights.dtype}.")
        if tuple(class_weights.shape) != (groups.num_classes,):
            raise ValueError(f"class_weights must be ({groups.num_classes},); got {tuple(class_weights.shape)}.")
    if criterion is not None:
        if not callable(criterion):
            raise TypeError(f"criterion must be callable, (scores, targets) -> scalar; got {_describe(criterion)}.")
        if label_smoothing != 0 or class_weights is not None or ignore_index != -100:
            raise ValueError(
                "label_smoothing, class_weights and ignore_index belong to the cross-entropy that criterion replaces: "
                "leave them out and give them to the criterion."
            )


def _check_targets(targets: Tensor, features: Tensor, groups: ChannelGroups, ignore_index: int) -> Tensor:
    """Class indices as int64, or class probabilities as they came; raises for what is neither."""
    batch, classes = features.shape[0], groups.num_classes

    def expected() -> str:  # not before it is needed: under torch.compile it would fix the batch size
        return (
            f"targets must be class indices ({batch},), integer, or class probabilities ({batch}, {classes}), floating"
        )

    if not isinstance(targets, Tensor):
        raise TypeError(f"{expected()}; got {type(targets).__name__}.")
    require_dense("targets", targets)
    if targets.device != features.device:
        raise ValueError(f"targets are on {targets.device}, features are on {features.device}: move one of them.")
    if targets.is_floating_point():
        if targets.shape != (batch, classes):
            raise ValueError(
                f"{expected()}; got {targets.dtype} {tuple(targets.shape)}. Class indices are integers: targets.long()."
            )
        if ignore_index != -100:
            raise ValueError(f"ignore_index={ignore_index} is for class indices; the targets are probabilities.")
        return targets
    if targets.is_complex() or targets.dtype == torch.bool:
        raise TypeError(f"{expected()}; got {targets.dtype}.")
    if targets.shape != (batch,):
        raise ValueError(
            f"{expected()}; got {targets.dtype} {tuple(targets.shape)}. One-hot targets are probabilities: "
            "targets.float(). For several labels an image give a criterion, for example "
            "binary_cross_entropy_with_logits."
        )
    targets = targets.long()
    if targets.device.type == "cpu" and values_are_readable():
        is_wrong = (targets != ignore_index) & ((targets < 0) | (targets >= classes))
        if is_wrong.any():
            sample = int(is_wrong.nonzero()[0])
            raise ValueError(
                f"targets must be from 0 to {classes - 1}, or ignore_index={ignore_index}; "
                f"sample {sample} has {int(targets[sample])}. Labels that count from 1 need targets - 1."
            )
    return targets


def _describe(value: object) -> str:
    return f"a {value.dtype} tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)[:200]
