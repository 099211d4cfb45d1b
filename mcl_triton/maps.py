"""Class activation maps at inference: where a class's channels look."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import check_dense, check_groups
from .groups import ChannelGroups
from .tracing import values_are_readable


def class_maps(
    features: Tensor,
    groups: ChannelGroups,
    classes: Tensor | Sequence[int] | Sequence[Sequence[int]] | int,
    *,
    reduce: str | None = "max",
) -> Tensor:
    """The activation maps of chosen classes: the maximum over a class's channels (CCMP), or each channel by itself.

    For one class i with the channels ``own``: ``features[:, own].amax(dim=1)``.

    Args:
        features: (B, N, H, W) or (B, N, P).
        groups: which of the N channels belong to which of the C classes.
        classes: class indices, a tensor or lists: (B, K) for K classes of each sample, (B,) for one (K = 1), or an int
            for the same class in every sample (K = 1).
        reduce: ``"max"`` for one map a class, None for every channel of it.

    Returns:
        (B, K, H, W) for ``reduce="max"``. (B, K, ξ, H, W) for None, where ξ is the largest size in ``groups``;
        smaller groups are filled up with zeros. (B, N, P) features give P in place of H, W. The dtype of the features.

    Raises:
        TypeError: ``groups`` is no ChannelGroups, the features are no tensor, or ``classes`` are no integers.
        ValueError: a shape does not fit, a class is out of range (checked on the CPU only), or ``reduce`` is neither
            of the two.

    Source: the channel visualisations of IEEE TIP 2020, arXiv 2002.04264; CCMP is its cross-channel max pooling.
    """
    check_groups(groups)
    if reduce not in ("max", None):
        raise ValueError(f'reduce must be "max" or None; got {reduce!r}.')
    check_dense("features", features)
    shape = tuple(features.shape)
    if features.dim() not in (3, 4) or shape[1] != groups.num_channels or 0 in shape:
        raise ValueError(
            f"features must be (B, {groups.num_channels}, H, W) or (B, {groups.num_channels}, P) for {groups!r}; "
            f"got {shape}."
        )
    batch = shape[0]
    if not isinstance(classes, Tensor):
        try:
            classes = torch.tensor(classes, device="cpu")
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"classes must be integers: a tensor, lists or an int; got {classes!r:.200}.") from None
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
        raise TypeError(f"classes must be integers; got {classes.dtype}.")
    if classes.dim() == 0:
        classes = classes.expand(batch)
    if classes.dim() not in (1, 2) or classes.shape[0] != batch:
        raise ValueError(
            f"classes must be (B,) or (B, K) with B = {batch}, or one int for all samples; got {tuple(classes.shape)}."
        )
    classes = classes.reshape(batch, -1).long()  # [B, K]
    if classes.device.type == "cpu" and values_are_readable() and classes.numel():
        smallest, largest = int(classes.min()), int(classes.max())
        if smallest < 0 or largest >= groups.num_classes:
            raise ValueError(
                f"classes must be from 0 to {groups.num_classes - 1}; got values from {smallest} to {largest}."
            )
    classes = classes.to(features.device)
    first = torch.tensor(groups.offsets, device=features.device)[classes].unsqueeze(-1)  # [B, K, 1]
    size = torch.tensor(groups.sizes, device=features.device)[classes].unsqueeze(-1)
    place = torch.arange(max(groups.sizes), device=features.device)  # [ξ]
    # Beyond its end a small group repeats its last channel, which changes no maximum.
    channels = first + torch.minimum(place, size - 1)  # [B, K, ξ]
    maps = features[torch.arange(batch, device=features.device)[:, None, None], channels]
    if reduce == "max":
        return maps.amax(dim=2)
    is_padding = (place >= size).reshape(*channels.shape, *[1] * (len(shape) - 2))
    return maps.masked_fill(is_padding, 0)
