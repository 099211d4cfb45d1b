"""Measure where channels look on words in typefaces, for trained runs: ``python -m reference regions --help``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.functional import interpolate

from ..channels.overlap import channel_overlap
from ..channels.regions import ON_OBJECT, accuracy_without, border_channels, object_positions, share_on_object
from ..commands import Regions
from ..datasets.typefaces import Typefaces
from ..model.network import MCNetwork
from ..training.build import load_test_data
from ..training.checkpoint import load_network
from .statistics import mean_and_deviation

PART = 0.25

COLUMNS = {
    # measure: heading, scale, format
    "share": ("on the word %", 100, ".0f"),
    "chance": ("of all %", 100, ".0f"),
    "border": ("at the border %", 100, ".0f"),
    "channels": ("channels there %", 100, ".0f"),
    "remains": ("on no word %", 100, ".0f"),
    "overlap": ("overlap", 1, ".3f"),
    "whole": ("accuracy %", 100, ".1f"),
    "most": ("without most", 100, ".1f"),
    "random": ("without random", 100, ".1f"),
    "least": ("without least", 100, ".1f"),
}


def main(options: Regions) -> None:
    """Measure runs, and print a line for each group of them."""
    print(table([measure(path) for path in options.runs]))


def measure(path: Path) -> tuple[str, dict[str, float]]:
    """The loss of a run and its measures."""
    network, settings, _ = load_network(path)
    dataset = load_test_data(settings)
    if not isinstance(dataset, Typefaces):
        raise ValueError(f"{path} must be of a run on typefaces, whose letters are known; got {settings.dataset}.")
    return settings.loss, measures(network, dataset, settings.seed)


@torch.inference_mode()
def measures(network: MCNetwork, dataset: Typefaces, seed: int) -> dict[str, float]:
    """Measure where the channels of a word's own class look, and the accuracies with a part of the word blanked."""
    images = torch.stack([image for image, _ in dataset])
    targets, ink = torch.tensor(dataset.targets), torch.from_numpy(dataset.ink)
    features = network.extract(images)
    on_word = object_positions(ink, (features.shape[2], features.shape[3])) >= ON_OBJECT
    inside = torch.zeros_like(on_word)
    inside[:, 1:-1, 1:-1] = True
    share = share_on_object(features, network.groups, targets, ink)
    border = share_on_object(features, network.groups, targets, _enlarged(~inside & ~on_word, ink.shape))
    channels, remains = border_channels(
        features, network.groups, targets, network.extract(torch.zeros_like(images[:1]))[0]
    )
    return {
        "share": share.nanmean().item(),
        "chance": on_word.float().mean().item(),
        "border": border.nanmean().item(),
        "channels": channels,
        "remains": remains,
        "overlap": channel_overlap(features, network.groups, targets).nanmean().item(),
        **accuracy_without(
            network.extract,
            network.classify,
            network.groups,
            images,
            targets,
            ink,
            PART,
            torch.Generator().manual_seed(seed),
        ),
    }


def table(rows: Sequence[tuple[str, dict[str, float]]]) -> str:
    """A line for each name: mean and standard deviation over its rows."""
    lines = ["".ljust(24) + "".join(heading.rjust(17) for heading, _, _ in COLUMNS.values())]
    for each in dict.fromkeys(name for name, _ in rows):
        values = [row for name, row in rows if name == each]
        cells = [
            mean_and_deviation([scale * row[measure] for row in values], digits)
            for measure, (_, scale, digits) in COLUMNS.items()
        ]
        lines.append(each.ljust(24) + "".join(cell.rjust(17) for cell in cells))
    return "\n".join(lines)


def _enlarged(positions: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Positions (B, H', W') as a mask of pixels, (B, H, W)."""
    return interpolate(positions[:, None].float(), (shape[1], shape[2]), mode="nearest")[:, 0]
