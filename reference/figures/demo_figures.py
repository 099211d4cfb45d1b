"""The demo's figures: how training went, and where a class's channels look."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from mcl_triton import ChannelGroups, channel_pool

from ..channels.class_views import scaled_maps
from ..model.network import MCNetwork
from .pictures import DPI, SEAM, grey, overlay, panel, save, write
from .style import STYLES

Rows = Sequence[Mapping[str, float]]


def draw_curves(runs: Mapping[str, Sequence[Rows]], groups: ChannelGroups, path: Path) -> None:
    """Accuracy, L_dis and L_div on the test set against the epoch, mean and standard deviation over the seeds.

    Args:
        runs: by the name of the loss, the rows of each seed.
        groups: of the networks.
        path: of the PNG file.
    """
    most_diverse = groups.num_channels / groups.num_classes
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.7), layout="constrained")
    panels = (
        ("test_accuracy", 100.0, "Test accuracy (%)", "of the classifier, higher is better"),
        ("test_discriminality", 1.0, "L_dis on the test set", "cross-entropy of the class scores, lower is better"),
        ("test_diversity", 1.0, "L_div on the test set", f"from 1 to ξ = {most_diverse:g}, higher is more diverse"),
    )
    for axis, (column, scale, title, subtitle) in zip(axes, panels, strict=True):
        for name, seeds in runs.items():
            style = STYLES[name]
            epochs = [row["epoch"] for row in seeds[0]]
            values = scale * np.array([[row[column] for row in rows] for rows in seeds])  # [seeds, epochs]
            mean, deviation = values.mean(axis=0), values.std(axis=0, ddof=min(1, len(seeds) - 1))
            marker = "o" if len(epochs) == 1 else None  # a single point is no line
            axis.plot(epochs, mean, label=name, linewidth=1.8, marker=marker, **style)
            axis.fill_between(epochs, mean - deviation, mean + deviation, color=style["color"], alpha=0.2, linewidth=0)
        axis.set_title(f"{title}\n", fontsize=11, loc="left", weight="bold")
        axis.text(0, 1.03, subtitle, transform=axis.transAxes, fontsize=8.5, color="#444444")
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(0, 100)
    axes[1].axhline(math.log(groups.num_classes), color="black", linewidth=1, linestyle=":", label="equal scores: ln C")
    axes[2].set_ylim(1, max(most_diverse, 1.1))  # one channel a class has no range
    handles, labels = axes[1].get_legend_handles_labels()
    spread = f"   (band: standard deviation over {len(seeds)} seeds)" if len(seeds) > 1 else ""
    figure.legend(handles, [*labels[:-1], labels[-1] + spread], loc="outside lower center", ncols=3, frameon=False)
    save(figure, path)


def draw_channels(networks: Mapping[str, MCNetwork], images: Tensor, people: Tensor, note: str, path: Path) -> None:
    """Each image with the maps of its own class's channels, and their maximum, under each loss.

    Args:
        networks: by the name of the loss; they have the same groups.
        images: (B, 1, H, W) in [−1, 1].
        people: classes, (B,).
        note: which images they are.
        path: of the PNG file.
    """
    maps = {name: own_maps(network, images, people) for name, network in networks.items()}
    own, _ = next(iter(maps.values()))
    panels = own.shape[1]  # the channels and their maximum
    # In inches. A pixel of an image is two by two of the figure's: nothing is blurred, and the file is small.
    side, rise = 2 * images.shape[3] / DPI, 2 * images.shape[2] / DPI
    left, top, gap, right = 0.25, 0.7, 0.35, 0.25
    block_width = gap + panels * (side + SEAM)
    width = left + side + len(maps) * block_width + right
    explanation = textwrap.wrap(
        f"{note} Colour: activation of the channels of the person's own class, brightest where it is largest in the "
        "row under that loss. h: diversity score of that class, from 1 to ξ.",
        width=int(15 * (width - left - right)),  # letters of 8 points to an inch
    )
    bottom = 0.2 + 0.15 * len(explanation)
    figure = plt.figure(figsize=(width, top + len(images) * (rise + SEAM) + bottom))
    for row, photo in enumerate((images[:, 0] + 1) / 2):
        y = top + row * (rise + SEAM)
        axis = panel(figure, left, y, side, rise, grey(photo))
        axis.set_ylabel(f"person {int(people[row]) + 1}", fontsize=8)
        for block, (name, (own, diversity)) in enumerate(maps.items()):
            x = left + side + block * block_width + gap
            for place in range(panels):
                axis = panel(figure, x + place * (side + SEAM), y, side, rise, overlay(photo, own[row, place]))
                if row == 0:
                    axis.set_title(f"channel {place + 1}" if place < panels - 1 else "maximum", fontsize=8)
            axis.yaxis.set_label_position("right")
            axis.set_ylabel(f"h = {diversity[row]:.1f} of {panels - 1}", fontsize=8)
            if row == 0:
                write(figure, x + panels * side / 2, 0.3, name, fontsize=11, weight="bold", ha="center")
    for line, text in enumerate(explanation):
        write(figure, left, y + rise + 0.2 + 0.15 * line, text, fontsize=8, color="#444444")
    save(figure, path)


@torch.inference_mode()
def own_maps(network: MCNetwork, images: Tensor, people: Tensor) -> tuple[Tensor, Tensor]:
    """For each image the channels of its class and their maximum, (B, ξ + 1, H, W) in [0, 1], and h, (B,)."""
    network.eval()
    features = network.extract(images)
    maps = scaled_maps(features, network.groups, people, tuple(images.shape[-2:]))
    return maps, channel_pool(features, network.groups).diversity[torch.arange(len(people)), people]
