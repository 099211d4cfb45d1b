"""The published convention for groups of one size, computed the way the published code computes it.

The pooling across channels is a `max_pool2d` whose window runs over the channels, with the channels transposed into
the last dimension before and back after; of equal values the first channel of the window wins and takes the whole
gradient. Written anew from the behaviour of the authors' code, https://github.com/PRIS-CV/Mutual-Channel-Loss.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import avg_pool2d, cross_entropy, max_pool2d, softmax


def pool_channels(maps: Tensor, channels_per_class: int) -> Tensor:
    """The maximum over each class's channels, (B, C·ξ, H, W) -> (B, C, H, W)."""
    window = (1, channels_per_class)
    return max_pool2d(maps.transpose(1, 3), window, stride=window).transpose(1, 3)


def components(
    features: Tensor, targets: Tensor, channels_per_class: int, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """L_dis and the published diversity component 1 − mean h/ξ.

    Args:
        features: (B, C·ξ, H, W).
        targets: (B,) class indices.
        channels_per_class: ξ.
        mask: (C·ξ,) of 0 and 1, shared by the batch; None keeps every channel.

    Returns:
        L_dis and 1 − mean h/ξ, two scalars.
    """
    batch, channels, height, width = features.shape
    attention = softmax(features.reshape(batch, channels, height * width), dim=2)
    attention = pool_channels(attention.reshape(batch, channels, height, width), channels_per_class)
    attention = attention.reshape(batch, -1, height * width)
    diversity = 1.0 - attention.sum(dim=2).mean() / channels_per_class

    attended = features if mask is None else features * mask.view(1, channels, 1, 1)
    attended = pool_channels(attended, channels_per_class)
    scores = avg_pool2d(attended, kernel_size=(height, width)).flatten(1)
    return cross_entropy(scores, targets), diversity


def loss(
    features: Tensor,
    targets: Tensor,
    channels_per_class: int,
    mask: Tensor | None = None,
    alpha: float = 1.5,
    beta: float = 20.0,
) -> Tensor:
    """α·L_dis + β·(1 − mean h/ξ), with the published weights of the training from scratch."""
    discriminality, diversity = components(features, targets, channels_per_class, mask)
    return alpha * discriminality + beta * diversity
