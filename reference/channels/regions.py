"""Measures of whether the channels of a class look at the object, on images whose object is known to the pixel.

Numbers alone, for any network and any masks of the object.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from mcl_triton import ChannelGroups, class_maps

_TOP = 10  # of so many positions, one is among the top
ON_OBJECT = 0.05
"""The least part of a position's pixels that the object covers where the position is on it."""


def object_positions(ink: Tensor, size: tuple[int, int]) -> Tensor:
    """The mean of the object's mask over the pixels of each position, (B, H, W) -> (B, H', W'); H' divides H."""
    height, width = ink.shape[1] // size[0], ink.shape[2] // size[1]
    return avg_pool2d(ink[:, None], (height, width))[:, 0]


def share_on_object(features: Tensor, groups: ChannelGroups, classes: Tensor, ink: Tensor) -> Tensor:
    """The share of the top positions of each channel of a class that is on the object.

    The top positions are the ⌈P/10⌉ of the largest activation; of equal ones the first. A channel that is the same
    everywhere has none.

    Args:
        features: (B, N, H', W').
        groups: of one size.
        classes: the class of each image, (B,).
        ink: the object's mask, (B, H, W) in [0, 1].

    Returns:
        (B, ξ); NaN for a channel that is the same everywhere.
    """
    own = class_maps(features, groups, classes, reduce=None)[:, 0].flatten(2)  # [B, ξ, P]
    positions = object_positions(ink, (features.shape[2], features.shape[3])).flatten(1) >= ON_OBJECT  # [B, P]
    top = own.topk(-(-own.shape[2] // _TOP)).indices
    share = positions[:, None].expand_as(own).gather(2, top).float().mean(dim=2)
    return share.where(own.amax(dim=2) > own.amin(dim=2), torch.nan)


def border_channels(features: Tensor, groups: ChannelGroups, classes: Tensor, empty: Tensor) -> tuple[float, float]:
    """The part of the channels that are brightest at the border, and how much of that an empty image shows as well.

    Args:
        features: of images of every class, (B, N, H', W').
        groups: of one size.
        classes: of the images, (B,).
        empty: the features of an image without an object, (N, H', W').

    Returns:
        The part of all N channels whose mean map over the images of their own class is largest at an outermost
        position; and the mean activation of these channels at the outermost positions on the empty image, divided by
        that on the images of their own class. NaN where there are none.
    """
    own = class_maps(features, groups, classes, reduce=None)[:, 0]  # [B, ξ, H', W']
    mean = torch.cat([own[classes == label].mean(dim=0) for label in range(groups.num_classes)])  # [N, H', W']
    ring = torch.ones(mean.shape[1:], dtype=torch.bool)
    ring[1:-1, 1:-1] = False
    at_border = ring.flatten()[mean.flatten(1).argmax(dim=1)]
    remains = empty[at_border][:, ring].mean() / mean[at_border][:, ring].mean()
    return at_border.float().mean().item(), remains.item()


def blanked(images: Tensor, ink: Tensor, order: Tensor, part: float) -> Tensor:
    """Images without the positions that come first in an order, as many as hold a part of the object.

    Args:
        images: (B, 1, H, W), 0 where there is nothing.
        ink: the object's mask, (B, H, W).
        order: a value of each position, (B, H', W'); the largest come first.
        part: of the object's mask.
    """
    positions = object_positions(ink, (order.shape[1], order.shape[2])).flatten(1)  # [B, P]
    on_object = positions >= ON_OBJECT
    ranked = order.flatten(1).masked_fill(~on_object, -torch.inf).argsort(dim=1, descending=True, stable=True)
    amounts = (positions * on_object).gather(1, ranked)
    before = amounts.cumsum(dim=1) - amounts
    chosen = (before < part * amounts.sum(dim=1, keepdim=True)) & (amounts > 0)
    hidden = torch.zeros_like(on_object).scatter(1, ranked, chosen).reshape(order.shape)
    return images.masked_fill(interpolate(hidden[:, None].float(), images.shape[2:], mode="nearest") > 0, 0.0)


@torch.inference_mode()
def accuracy_without(
    extract: Callable[[Tensor], Tensor],
    classify: Callable[[Tensor], Tensor],
    groups: ChannelGroups,
    images: Tensor,
    targets: Tensor,
    ink: Tensor,
    part: float,
    generator: torch.Generator,
) -> dict[str, float]:
    """Accuracy on whole images, and with a part of the object blanked where the class's channels look or do not.

    Args:
        extract: images -> features (B, N, H', W').
        classify: features -> logits (B, C).
        groups: of the features.
        images: (B, 1, H, W), 0 where there is nothing.
        targets: (B,).
        ink: the object's mask, (B, H, W).
        part: of the object that is blanked.
        generator: of the positions that are blanked at random.

    Returns:
        The accuracies on the images as they are (``whole``); with the positions of the object blanked at which the
        maximum of the true class's channels is largest (``most``), with as much of it blanked at random (``random``),
        and with those blanked at which it is smallest (``least``).
    """
    features = extract(images)
    heat = class_maps(features, groups, targets)[:, 0]
    orders = {"most": heat, "random": torch.rand(heat.shape, generator=generator), "least": -heat}
    variants = {"whole": images} | {name: blanked(images, ink, order, part) for name, order in orders.items()}
    return {
        name: (classify(extract(one)).argmax(dim=1) == targets).float().mean().item() for name, one in variants.items()
    }
