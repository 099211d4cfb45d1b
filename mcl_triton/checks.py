"""Checks of arguments, each made once per call: what was given, what was expected, how to mend it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .groups import ChannelGroups
from .tracing import is_differentiated_by_functorch, values_are_readable

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

DEFAULT_WEIGHTS = {"official": (1.5, 20.0), "paper": (0.005, 10.0)}
_NAMES_OF_WEIGHTS = {"official": "(alpha, beta)", "paper": "(mu, lambda)"}


def check_groups(groups: object) -> None:
    """Raise TypeError unless ``groups`` is a ChannelGroups."""
    if not isinstance(groups, ChannelGroups):
        raise TypeError(
            f"groups must be a ChannelGroups; got {type(groups).__name__}. "
            "Make one of a list of sizes by ChannelGroups(sizes), or of equal ones by ChannelGroups.uniform(C, ξ)."
        )


def check_dense(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is a tensor of one shape whose elements are all in memory."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor; got {type(value).__name__}.")
    if value.layout != torch.strided or value.is_nested:
        given = "a nested one" if value.is_nested else value.layout
        raise TypeError(f"{name} must be an ordinary dense tensor; got {given}. .to_dense() converts sparse ones.")
    if type(value) is not Tensor and hasattr(value, "to_local"):
        raise TypeError(
            f"{name} must be an ordinary tensor; got a {type(value).__name__}. Where it is sharded by samples, each "
            "process takes the loss of its own, .to_local(), and gradients are averaged; .full_tensor() gathers it."
        )


def check_not_traced(function: str) -> None:
    """Raise NotImplementedError under `torch.jit.trace`, whose graph would be one of these sizes without gradients."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        raise NotImplementedError(
            f"{function} cannot be traced by torch.jit.trace; torch.export.export and torch.compile can trace it."
        )


def check_features(features: Tensor, groups: ChannelGroups) -> None:
    """Raise TypeError, ValueError or NotImplementedError for features that these groups cannot pool."""
    check_dense("features", features)
    check_not_traced("channel_pool")
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
    if len(shape) not in (3, 4):
        raise ValueError(f"features must be (B, N, H, W) or (B, N, P); got {len(shape)} dimensions, {shape}.")
    if shape[1] != groups.num_channels:
        raise ValueError(
            f"features have {shape[1]} channels, {shape}, but the groups have {groups.num_channels}: {groups!r}. "
            f"ChannelGroups.split({shape[1]}, num_classes={groups.num_classes}) divides the channels that are there."
        )
    if 0 in shape:
        raise ValueError(f"features must have at least one sample and one spatial position; got {shape}.")


def check_mask(mask: Tensor | None, features: Tensor) -> None:
    """Raise TypeError or ValueError for a mask that is not one of zeros and ones for these features."""
    if mask is None:
        return
    check_dense("mask", mask)
    if mask.is_complex():
        raise TypeError(f"mask must be a tensor of zeros and ones; got {mask.dtype}.")
    shape = tuple(features.shape)
    if tuple(mask.shape) != shape[1:2] and tuple(mask.shape) != shape[:2]:
        raise ValueError(f"mask must be {(shape[1],)} or {shape[:2]} for features {shape}; got {tuple(mask.shape)}.")
    if mask.device != features.device:
        raise ValueError(f"mask is on {mask.device}, features are on {features.device}: move one of them.")
    if mask.device.type == "cpu" and values_are_readable() and not ((mask == 0) | (mask == 1)).all():
        raise ValueError("mask must hold zeros and ones only: 1 for a channel that is kept, 0 for one that is masked.")
    if mask.requires_grad:
        raise ValueError("mask requires a gradient, and has none: it is a choice of channels. Pass mask.detach().")


def check_generator(generator: object) -> None:
    """Raise TypeError unless ``generator`` is one of PyTorch's, or None."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator or None; got {generator!r:.200}. "
            "torch.Generator(device).manual_seed(seed) makes one of a seed."
        )


def check_weights(convention: str, weights: Sequence[float] | None) -> tuple[float, float]:
    """The two weights of the components, by default those of the convention; TypeError or ValueError for others."""
    if not isinstance(convention, str) or convention not in DEFAULT_WEIGHTS:
        raise ValueError(f'convention must be "official" or "paper"; got {convention!r}.')
    if weights is None:
        return DEFAULT_WEIGHTS[convention]
    names = _NAMES_OF_WEIGHTS[convention]
    try:
        if not isinstance(weights, (list, tuple)):
            raise TypeError
        first, second = map(_number, weights)
    except (TypeError, ValueError):
        raise TypeError(f"weights must be a list or tuple of two numbers, {names}; got {weights!r:.200}.") from None
    if not (0 <= first < math.inf and 0 <= second < math.inf):
        raise ValueError(
            f"weights {names} must be finite and not negative; got ({first}, {second}). "
            "Diversity is rewarded already for positive weights: the sign is part of the formula."
        )
    return first, second


def check_criterion(
    groups: ChannelGroups,
    criterion: Callable[[Tensor, Tensor], Tensor] | None,
    label_smoothing: float,
    class_weights: Tensor | None,
    ignore_index: int,
) -> None:
    """Raise TypeError or ValueError for options of the cross-entropy, or a criterion in its place, that do not fit."""
    expected = "label_smoothing must be a float from 0 to 1"
    if isinstance(label_smoothing, bool) or not isinstance(label_smoothing, (int, float)):
        raise TypeError(f"{expected}; got {label_smoothing!r:.200}.")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{expected}; got {label_smoothing!r}.")
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
        raise TypeError(f"ignore_index must be an integer, of type int; got {ignore_index!r:.200}.")
    if class_weights is not None:
        check_dense("class_weights", class_weights)
        if class_weights.is_complex():
            raise TypeError(f"class_weights must be a tensor of real numbers; got {class_weights.dtype}.")
        if tuple(class_weights.shape) != (groups.num_classes,):
            raise ValueError(f"class_weights must be ({groups.num_classes},); got {tuple(class_weights.shape)}.")
        wrong = _first_not_a_weight(class_weights)
        if wrong is not None:
            raise ValueError(
                f"class_weights must be finite and not negative; class {wrong[0]} has {wrong[1]}. "
                "A class of weight 0 is left out."
            )
    if criterion is not None:
        if not callable(criterion):
            raise TypeError(f"criterion must be callable, (scores, targets) -> scalar; got {_describe(criterion)}.")
        if label_smoothing != 0 or class_weights is not None or ignore_index != -100:
            raise ValueError(
                "label_smoothing, class_weights and ignore_index belong to the cross-entropy that criterion replaces: "
                "leave them out and give them to the criterion."
            )


def check_targets(targets: Tensor, features: Tensor, groups: ChannelGroups, ignore_index: int) -> None:
    """Raise TypeError or ValueError for targets that are neither class indices nor class probabilities.

    Values are checked on the CPU only: elsewhere, reading them would wait for the device.
    """
    batch, classes = features.shape[0], groups.num_classes

    def expected() -> str:  # not before it is needed: under torch.compile it would fix the batch size
        return (
            f"targets must be class indices ({batch},), integer, or class probabilities ({batch}, {classes}), floating"
        )

    if not isinstance(targets, Tensor):
        raise TypeError(f"{expected()}; got {type(targets).__name__}.")
    check_dense("targets", targets)
    if targets.device != features.device:
        raise ValueError(f"targets are on {targets.device}, features are on {features.device}: move one of them.")
    if targets.is_floating_point():
        if targets.shape != (batch, classes):
            raise ValueError(
                f"{expected()}; got {targets.dtype} {tuple(targets.shape)}. Class indices are integers: targets.long()."
            )
        if ignore_index != -100:
            raise ValueError(f"ignore_index={ignore_index} is for class indices; the targets are probabilities.")
        wrong = _first_not_a_weight(targets)
        if wrong is not None:
            raise ValueError(
                f"class probabilities must be finite and not negative; sample {wrong[0]} has {wrong[1]}. "
                "Logits become probabilities by targets.softmax(dim=1)."
            )
        return
    if targets.is_complex() or targets.dtype == torch.bool:
        raise TypeError(f"{expected()}; got {targets.dtype}.")
    if targets.shape != (batch,):
        raise ValueError(
            f"{expected()}; got {targets.dtype} {tuple(targets.shape)}. One-hot targets are probabilities: "
            "targets.float(). For several labels an image give a criterion, for example "
            "binary_cross_entropy_with_logits."
        )
    if targets.device.type == "cpu" and values_are_readable():
        targets = targets.long()
        is_wrong = (targets != ignore_index) & ((targets < 0) | (targets >= classes))
        if is_wrong.any():
            sample = int(is_wrong.nonzero()[0])
            raise ValueError(
                f"targets must be from 0 to {classes - 1}, or ignore_index={ignore_index}; "
                f"sample {sample} has {int(targets[sample])}. Labels that count from 1 need targets - 1."
            )


def check_discriminality(value: object) -> None:
    """Raise ValueError unless a criterion has returned a floating scalar tensor."""
    if not isinstance(value, Tensor) or value.dim() != 0 or not value.is_floating_point():
        raise ValueError(
            f"criterion must return a floating scalar tensor; got {_describe(value)}. Does it reduce by a mean?"
        )


def _number(value: object) -> float:
    """``value`` as a float; TypeError for truth values and strings, which Python converts as well."""
    if not isinstance(value, (int, float)) and hasattr(value, "item"):
        value = value.item()  # of NumPy and of tensors
    if isinstance(value, (bool, str, bytes)):
        raise TypeError("not a number")
    return float(value)  # type: ignore[arg-type]


def _first_not_a_weight(values: Tensor) -> tuple[int, float] | None:
    """First index and value of the first negative, infinite or NaN element, on the CPU; None where there is none."""
    if values.device.type != "cpu" or not values_are_readable():
        return None
    is_wrong = ~((values >= 0) & (values < math.inf))
    if not is_wrong.any():
        return None
    index = tuple(is_wrong.nonzero()[0].tolist())
    return index[0], values[index].item()


def _describe(value: object) -> str:
    return f"a {value.dtype} tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)[:200]
