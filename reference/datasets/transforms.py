"""The pipelines of the published recipes and of the small network, from an RGB picture to a normalised tensor.

All resize to one size, whatever the picture's shape. The random ones draw PyTorch's random numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor
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


def word(*, training: bool) -> v2.Transform:
    """For the small network: a picture of a word -> (1, 48, 96); white is 0, as in the padding of convolutions.

    Args:
        training: shift by up to 4 pixels, white coming in at the edges.
    """
    size = (48, 96)
    return v2.Compose(
        [
            v2.Grayscale(),
            v2.Resize(size),
            *([v2.RandomCrop(size, padding=4, fill=255)] if training else []),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([1.0], [0.5]),
        ]
    )


def photograph(image: Tensor, pipeline: v2.Compose) -> Tensor:
    """Undo the normalisation that ends a pipeline: images (..., channels, H, W) -> the same in [0, 1]."""
    normalize = pipeline.transforms[-1]
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (normalize.mean, normalize.std))
    return (image * std + mean).clamp(0, 1)


PIPELINES = {"from_scratch": from_scratch, "pretrained": pretrained, "word": word}
"""The pipelines by the names that settings have for them."""

IMAGE_CHANNELS = {"from_scratch": 3, "pretrained": 3, "word": 1}


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
