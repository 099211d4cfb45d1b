"""The figure of several images, each under the channels of its own class, for several networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from mcl_triton import channel_pool

from ..channels.class_views import scaled_maps
from ..datasets import Labelled
from ..model.network import MCNetwork
from .pictures import DPI, SEAM, grey, overlay, panel, save, write

_SCALE = 1.25  # pixels of the figure for one of an image

# Inches.
_MARGIN, _GAP, _LINE = 0.1, 0.25, 0.2


def draw_own_channels(networks: Mapping[str, MCNetwork], dataset: Labelled, indices: Sequence[int], path: Path) -> None:
    """A row per image: the image, and over it the maps of its own class's channels under each network.

    Args:
        networks: by the name of the loss; they have the same groups.
        dataset: of (image, class index), the images (1, H, W) as `transforms.word` makes them, white being 0.
        indices: of the images.
        path: of the PNG file.
    """
    images = torch.stack([dataset[index][0] for index in indices])  # [B, 1, H, W]
    classes = torch.tensor([dataset[index][1] for index in indices])
    maps = {name: own_maps(network, images, classes) for name, network in networks.items()}
    channels = next(iter(maps.values()))[0].shape[1]
    side, rise = _SCALE * images.shape[3] / DPI, _SCALE * images.shape[2] / DPI
    block = _GAP + channels * (side + SEAM)
    top, step = _MARGIN + 2 * _LINE, rise + _LINE
    figure = plt.figure(figsize=(2 * _MARGIN + side + len(maps) * block, top + len(indices) * step + 0.5 * _LINE))
    for place, name in enumerate(maps):
        centre = _MARGIN + side + _GAP + place * block + (block - _GAP) / 2
        write(figure, centre, _MARGIN + 0.7 * _LINE, name, fontsize=10, weight="bold", ha="center")
    for row, photo in enumerate((1 + images[:, 0] / 2).clamp(0, 1)):
        y = top + row * step
        write(figure, _MARGIN, y - 0.04, dataset.classes[int(classes[row])], fontsize=8)
        panel(figure, _MARGIN, y, side, rise, grey(photo))
        for place, (own, diversity) in enumerate(maps.values()):
            x = _MARGIN + side + _GAP + place * block
            write(figure, x, y - 0.04, f"h = {diversity[row]:.1f} of {channels}", fontsize=8, color="#444444")
            for channel in range(channels):
                panel(figure, x + channel * (side + SEAM), y, side, rise, overlay(photo, own[row, channel]))
    save(figure, path)


@torch.inference_mode()
def own_maps(network: MCNetwork, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """For each image the channels of its class, (B, ξ, H, W) in [0, 1], and h, (B,)."""
    network.eval()
    features = network.extract(images)
    maps = scaled_maps(features, network.groups, classes, tuple(images.shape[-2:]))
    diversity = channel_pool(features, network.groups).diversity[torch.arange(len(classes)), classes]
    return maps[:, :-1], diversity  # the last one is the maximum of the others
