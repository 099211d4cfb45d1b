"""The figure of several images, each under the channels of its own class, for several networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from mcl_triton import channel_pool

from ..channels.explanation import scaled_maps
from ..datasets import Labelled
from ..datasets.transforms import photograph
from ..model.network import MCNetwork
from .pictures import overlay
from .theme import SMALL, WIDTH, Theme, page, save

Maps = tuple[Tensor, Tensor]
"""For each image the channels of its class, (B, ξ, H, W) in [0, 1], and h, (B,)."""


def draw_own_channels(
    networks: Mapping[str, MCNetwork], dataset: Labelled, indices: Sequence[int], subtitle: str, folder: Path, name: str
) -> list[Path]:
    """A row per image: the maps of its own class's channels over it under each network. Writes both variants.

    Args:
        networks: by the name of the loss; they have the same groups.
        dataset: of (image, class index), with the transform of its images.
        indices: of the images.
        subtitle: what the networks were trained on.
        folder: for the PNG files.
        name: of the files, without "-light.png".
    """
    images, classes = images_and_classes(dataset, indices)
    maps = {loss: own_maps(network, images, classes) for loss, network in networks.items()}
    titles = [dataset.classes[index] for index in classes.tolist()]
    photos = photograph(images, dataset.transform).mean(dim=1)
    return save(partial(_figure, maps, photos, titles, subtitle), folder, name, kind="png")


def images_and_classes(dataset: Labelled, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(B, image channels, H, W) and (B,)."""
    images, classes = zip(*(dataset[index] for index in indices), strict=True)
    return torch.stack(images), torch.tensor(classes)


@torch.inference_mode()
def own_maps(network: MCNetwork, images: Tensor, classes: Tensor) -> Maps:
    """Maps of the channels of each image's own class."""
    network.eval()
    features = network.extract(images)
    maps = scaled_maps(features, network.groups, classes, tuple(images.shape[-2:]))
    diversity = channel_pool(features, network.groups).diversity[torch.arange(len(classes)), classes]
    return maps[:, :-1], diversity  # the last one is the maximum of the others


def _figure(maps: Mapping[str, Maps], photos: Tensor, titles: Sequence[str], subtitle: str, theme: Theme) -> Figure:
    channels = next(iter(maps.values()))[0].shape[1]
    rise = WIDTH / (len(maps) * channels) * photos.shape[1] / photos.shape[2]
    figure, body = page(theme, "Where a class's own channels look", subtitle, 0.3 + len(photos) * (rise + 0.2))
    margin = 0.1 / WIDTH
    _, *parts, _ = body.subfigures(1, len(maps) + 2, width_ratios=[margin, *[1] * len(maps), margin], wspace=0.02)
    layout = figure.get_layout_engine()
    assert layout is not None
    layout.set(w_pad=0.012, h_pad=0.012, wspace=0.01, hspace=0)  # type: ignore[call-arg]
    for part, (loss, (own, diversity)) in zip(parts, maps.items(), strict=True):
        part.suptitle(loss, x=0, ha="left", fontsize=9.5, weight="bold")
        axes = part.subplots(len(photos), channels, squeeze=False)
        for row, photo in enumerate(photos):
            for channel, axis in enumerate(axes[row]):
                axis.imshow(overlay(photo, own[row, channel]), vmin=0, vmax=1, interpolation="nearest")
                axis.set_axis_off()
            text = f"h = {diversity[row]:.1f} of {channels}"
            name = f"{titles[row]}: " if part is parts[0] else ""
            axes[row, 0].set_title(name + text, fontsize=SMALL, color=theme.muted, pad=2)
    return figure
