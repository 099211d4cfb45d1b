"""Explanation of a network's answer: where the channels of a class look in one image, in maps and in numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mcl_triton import ChannelGroups, channel_pool, class_maps

from ..model.network import MCNetwork
from .boxes import Box, locate
from .overlap import channel_overlap


@dataclass(frozen=True)
class Explanation:
    """The channels of one class in one image, under one network.

    Args:
        class_name: of the class.
        role: the reason to show it: "true", "predicted", or "true and predicted".
        probability: of the class, by the network's classifier.
        overlap: of its channels, see `channel_overlap`.
        diversity: h of the class, from 1 to ξ.
        maps: its ξ channels and their maximum, (ξ + 1, H, W) in [0, 1], H and W those of the image.
        box: around what the maximum shows, in pixels of the image; None if no channel is active.
    """

    class_name: str
    role: str
    probability: float
    overlap: float
    diversity: float
    maps: Tensor
    box: Box | None

    def title(self) -> str:
        """The class and its role."""
        return f"{self.class_name} ({self.role})"

    def numbers(self) -> str:
        """Measured values."""
        overlap = "none" if math.isnan(self.overlap) else f"{self.overlap:.2f}"
        return (
            f"probability {self.probability:.1%}, overlap {overlap}, h = {self.diversity:.1f} of {len(self.maps) - 1}"
        )


@torch.inference_mode()
def explain_image(
    network: MCNetwork, image: Tensor, classes: Sequence[str], true_class: str | None = None
) -> list[Explanation]:
    """The true class, if it is given, and the predicted one, if it is another.

    Args:
        network: on the CPU; it is put into evaluation mode.
        image: (image channels, H, W), as the network takes it.
        classes: the names of the network's classes.
        true_class: one of ``classes``.

    Raises:
        ValueError: there is no such class; the message has the nearest names.
    """
    size = (image.shape[1], image.shape[2])
    network.eval()
    features = network.extract(image[None])
    probabilities = network.classify(features)[0].softmax(dim=0)
    diversity = channel_pool(features, network.groups).diversity[0]
    predicted = int(probabilities.argmax())
    roles = {} if true_class is None else {class_index(true_class, classes): "true"}
    roles[predicted] = "true and predicted" if predicted in roles else "predicted"

    def explain(index: int, role: str) -> Explanation:
        of_class = torch.tensor([index])
        maps = scaled_maps(features, network.groups, of_class, size)[0]
        return Explanation(
            classes[index],
            role,
            probability=float(probabilities[index]),
            overlap=float(channel_overlap(features, network.groups, of_class)),
            diversity=float(diversity[index]),
            # Between them is what fills up a small group.
            maps=torch.cat([maps[: network.groups.sizes[index]], maps[-1:]]),
            box=locate(class_maps(features, network.groups, of_class)[0, 0], size),
        )

    return [explain(index, role) for index, role in roles.items()]


def scaled_maps(features: Tensor, groups: ChannelGroups, classes: Tensor, size: tuple[int, int]) -> Tensor:
    """The channels of a class of each image, (B,), and their maximum: (B, ξ + 1, H, W) in [0, 1] of the given size."""
    own = class_maps(features, groups, classes, reduce=None)[:, 0]  # [B, ξ, H', W']
    ccmp = class_maps(features, groups, classes)  # [B, 1, H', W']
    maps = interpolate(torch.cat([own, ccmp], dim=1), size, mode="bilinear").clamp(min=0)
    # One scale for an image, so that a channel that is silent looks silent.
    return maps / maps.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)


def class_index(name: str, classes: Sequence[str]) -> int:
    """Index of a class among ``classes``; ValueError with the nearest names if it is not there."""
    if name not in classes:
        nearest = ", ".join(get_close_matches(name, classes, cutoff=0))
        raise ValueError(f"there is no class {name!r} among the network's {len(classes)}; the nearest are {nearest}.")
    return list(classes).index(name)
