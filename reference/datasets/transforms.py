"""The two pipelines of the published recipes, from an RGB picture to a normalised tensor.

Both resize to a square, whatever the picture's shape. The random ones draw PyTorch's random numbers.
"""

from __future__ import annotations

import torch
from torchvision.transforms import v2

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def from_scratch(*, training: bool) -> v2.Transform:
    """For networks trained from scratch: a picture -> (3, 224, 224) in [−1, 1].

    Args:
        training: shift by up to 4 pixels, black coming in at the edges, and mirror every other one.
    """
    half = (0.5, 0.5, 0.5)
    crop = v2.RandomCrop(224, padding=4) if training else v2.CenterCrop(224)
    return _pipeline(224, crop, half, half, training)


def pretrained(*, training: bool) -> v2.Transform:
    """For networks pretrained on ImageNet, with its mean and standard deviation: a picture -> (3, 448, 448).

    The authors' script has mean and standard deviation 0.5 here as well; the published weights of networks expect those
    of ImageNet.

    Args:
        training: take any 448² of the 600² pixels rather than the middle, and mirror every other one.
    """
    crop = v2.RandomCrop(448) if training else v2.CenterCrop(448)
    return _pipeline(600, crop, _IMAGENET_MEAN, _IMAGENET_STD, training)


def _pipeline(
    size: int, crop: v2.Transform, mean: tuple[float, ...], std: tuple[float, ...], training: bool
) -> v2.Transform:
    return v2.Compose(
        [
            v2.Resize((size, size)),
            crop,
            *([v2.RandomHorizontalFlip()] if training else []),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean, std),
        ]
    )
