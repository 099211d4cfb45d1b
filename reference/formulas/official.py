"""The official convention, that of the authors' code, computed the way their code computes it.

The pooling across channels is a `max_pool2d` whose window runs over the channels, with the channels transposed into
the last dimension before and back after; of equal values the first channel of the window wins and takes the whole
gradient. Their code knows groups of one size only; `ragged_loss` applies its pooling to each size in turn, as
an older script of it did for ResNet50, which added the diversity's terms of the sizes where here their mean is taken.
Written anew from the behaviour of the authors' code, https://github.com/PRIS-CV/Mutual-Channel-Loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, cross_entropy, max_pool2d, softmax


def pool_channels(maps: Tensor, channels_per_class: int) -> Tensor:
    """The maximum over each class's channels, (B, C·ξ, H, W) -> (B, C, H, W)."""
    window = (1, channels_per_class)
    return max_pool2d(maps.transpose(1, 3), window, stride=window).transpose(1, 3)


def class_scores(features: Tensor, channels_per_class: int, mask: Tensor | None) -> Tensor:
    """g, (B, C), of features (B, C·ξ, H, W) and a mask (C·ξ,) of 0 and 1 that the batch shares; None keeps all."""
    attended = features if mask is None else features * mask.view(1, -1, 1, 1)
    return avg_pool2d(pool_channels(attended, channels_per_class), kernel_size=features.shape[2:]).flatten(1)


def diversity_fractions(features: Tensor, channels_per_class: int) -> Tensor:
    """h/ξ, (B, C), of features (B, C·ξ, H, W)."""
    batch, channels, height, width = features.shape
    attention = softmax(features.reshape(batch, channels, height * width), dim=2)
    attention = pool_channels(attention.reshape(batch, channels, height, width), channels_per_class)
    return attention.flatten(2).sum(dim=2) / channels_per_class


def loss(
    features: Tensor,
    targets: Tensor,
    channels_per_class: int,
    mask: Tensor | None = None,
    alpha: float = 1.5,
    beta: float = 20.0,
) -> Tensor:
    """α·L_dis + β·(1 − mean h/ξ), by default with their weights for training from scratch.

    Args:
        features: (B, C·ξ, H, W).
        targets: (B,) class indices.
        channels_per_class: ξ.
        mask: (C·ξ,) of 0 and 1; None keeps every channel.
        alpha, beta: the weights.
    """
    discriminality = cross_entropy(class_scores(features, channels_per_class, mask), targets)
    diversity = 1 - diversity_fractions(features, channels_per_class).mean()
    return alpha * discriminality + beta * diversity


def ragged_loss(
    features: Tensor,
    targets: Tensor,
    runs: Sequence[tuple[int, int]],
    mask: Tensor | None = None,
    alpha: float = 1.5,
    beta: float = 20.0,
) -> Tensor:
    """`loss` for groups of several sizes, size after size; ``runs`` has (number of classes, channels of each)."""
    scores, fractions = [], []
    first = 0
    for classes, size in runs:
        own = slice(first, first + classes * size)
        scores.append(class_scores(features[:, own], size, None if mask is None else mask[own]))
        fractions.append(diversity_fractions(features[:, own], size))
        first += classes * size
    discriminality = cross_entropy(torch.cat(scores, dim=1), targets)
    return alpha * discriminality + beta * (1 - torch.cat(fractions, dim=1).mean())
