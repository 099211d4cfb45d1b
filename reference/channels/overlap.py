"""Overlap of a class's channels: how much they look at the same places, one number per image."""

from __future__ import annotations

import torch
from torch import Tensor

from mcl_triton import ChannelGroups, class_maps

_TOP = 10  # of so many positions, one is among the top


def channel_overlap(features: Tensor, groups: ChannelGroups, classes: Tensor) -> Tensor:
    """The overlap of the channels of one class in each image: from 0, no two share a place, to 1, all look alike.

    It is the mean, over the pairs of the class's channels, of the intersection of their top positions divided by the
    union. The top positions of a channel are those whose activation is at least its ⌈P/10⌉-th largest, and above its
    smallest. So of equal activations all are in or all are out, and the zeros that a ReLU leaves are no place to look
    at. A channel that is the same everywhere, a dead one for instance, or that has a NaN, has no top positions: its
    pairs do not count.

    Args:
        features: (B, N, H, W) or (B, N, P).
        groups: which of the N channels belong to which of the C classes.
        classes: the class to look at in each image, (B,).

    Returns:
        (B,), float32. NaN where no pair counts: in a class of one channel, or with fewer than two that vary.

    Raises:
        ValueError: ``classes`` are not (B,), or as `class_maps` raises.
    """
    if classes.dim() != 1:
        raise ValueError(f"classes must be one for each image, (B,); got {tuple(classes.shape)}.")
    own = class_maps(features, groups, classes, reduce=None)[:, 0].flatten(2)  # [B, ξ, P]
    count = -(-own.shape[2] // _TOP)
    threshold = own.topk(count).values[..., -1:]
    # Smaller groups are filled up with zeros, which have no top positions either.
    top = (own >= threshold) & (own > own.amin(dim=2, keepdim=True))
    first, second = torch.triu_indices(own.shape[1], own.shape[1], offset=1, device=own.device)
    one, other = top[:, first], top[:, second]  # [B, pairs, P]
    overlap = (one & other).sum(dim=2) / (one | other).sum(dim=2)
    counts = one.any(dim=2) & other.any(dim=2)
    return overlap.where(counts, torch.nan).nanmean(dim=1)
