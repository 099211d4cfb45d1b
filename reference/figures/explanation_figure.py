"""The figure of one image: the photograph, and beside it what the channels of each network show."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from ..channels.boxes import THRESHOLD
from ..channels.explanation import View
from .pictures import DPI, SEAM, overlay, panel, save, write

# Inches.
_LONGER_SIDE = 1.6  # of a picture
_LINE = 0.2  # of text
_MARGIN, _GAP = 0.25, 0.4
_NARROWEST = 4.5  # of what is under one network, for its longest line of text

_COLUMNS = 6  # pictures side by side under one network


class Block(NamedTuple):
    """Parts of a drawing, of one network.

    Args:
        name: of the network.
        photo: what it saw, (1 or 3, H, W) in [0, 1].
        views: where the channels of one or two classes look there.
    """

    name: str
    photo: Tensor
    views: Sequence[View]


def draw_views(picture: Image.Image, blocks: Sequence[Block], title: str, path: Path) -> None:
    """Draw the picture, and the networks side by side; under each one the channels of every class that is viewed.

    Args:
        picture: the whole of it.
        blocks: one for each network.
        title: of the figure.
        path: of the PNG file.
    """
    scale = _LONGER_SIDE / max(picture.size)
    side, rise = scale * picture.width, scale * picture.height
    columns = min(_COLUMNS, max(len(view.maps) for block in blocks for view in block.views))
    block_width = max(columns * (side + SEAM), _NARROWEST)
    # Rows of views, in each of which as many lines of pictures as the class with most channels needs.
    lines = [
        max(-(-len(block.views[row].maps) // columns) for block in blocks if row < len(block.views))
        for row in range(max(len(block.views) for block in blocks))
    ]
    heights = [3 * _LINE + count * (_LINE + rise) for count in lines]
    width = _MARGIN + side + len(blocks) * (_GAP + block_width) + _MARGIN
    notes = textwrap.wrap(
        "Beside the whole picture is the part of it that a network takes. Colour: activation of the channels of the "
        "class, brightest where it is largest among them. Box: around the largest connected part of the maximum above "
        f"{THRESHOLD:.0%}. Overlap: from 0, the channels look at different places, to 1, all at the same. h: diversity "
        "score of the class, from 1 to its number of channels.",
        width=int(14 * (width - 2 * _MARGIN)),  # letters of 8 points to an inch
    )
    top = _MARGIN + 2.5 * _LINE
    figure = plt.figure(figsize=(width, top + sum(heights) + (len(notes) + 1) * _LINE))
    write(figure, _MARGIN, _MARGIN + _LINE / 2, _cut(title, 10 * (width - 2 * _MARGIN)), fontsize=11, weight="bold")
    pixels = picture.resize((round(side * DPI), round(rise * DPI)), Image.Resampling.BILINEAR)
    panel(figure, _MARGIN, top + 3 * _LINE, side, rise, np.asarray(pixels))
    for place, block in enumerate(blocks):
        x = _MARGIN + side + _GAP + place * (block_width + _GAP)
        write(figure, x, top - _LINE / 2, _cut(block.name, 11 * block_width), fontsize=10, weight="bold")
        for row, view in enumerate(block.views):
            y = top + sum(heights[:row]) + _LINE
            write(figure, x, y, _cut(view.title(), 13 * block_width), fontsize=9)
            write(figure, x, y + 0.8 * _LINE, view.numbers(), fontsize=8, color="#444444")
            _draw_maps(figure, x, y + _LINE, side, rise, columns, block.photo, view)
    for line, text in enumerate(notes):
        write(figure, _MARGIN, top + sum(heights) + (line + 0.5) * _LINE, text, fontsize=8, color="#444444")
    save(figure, path)


def _draw_maps(
    figure: Figure, x: float, y: float, side: float, rise: float, columns: int, photo: Tensor, view: View
) -> None:
    """The channels and their maximum over the photograph, in lines of ``columns`` pictures."""
    size = (round(rise * DPI), round(side * DPI))  # a pixel of the figure each
    grey, *maps = interpolate(
        torch.cat([photo.mean(dim=0, keepdim=True), view.maps])[None], size, mode="bilinear", antialias=True
    )[0].clamp(0, 1)
    for place, heat in enumerate(maps):
        line, column = divmod(place, columns)
        left, upper = x + column * (side + SEAM), y + line * (rise + _LINE) + _LINE
        axis = panel(figure, left, upper, side, rise, overlay(grey, heat))
        axis.set_title(f"channel {place + 1}" if place < len(maps) - 1 else "maximum", fontsize=8, pad=2)
    if view.box is not None:  # over the last one, the maximum
        across, down = size[1] / photo.shape[2], size[0] / photo.shape[1]
        corner = (view.box[0] * across - 0.5, view.box[1] * down - 0.5)  # pixels are centred on whole numbers
        axis.add_patch(
            Rectangle(corner, view.box[2] * across, view.box[3] * down, fill=False, color="#56B4E9", linewidth=1.5)
        )


def _cut(text: str, letters: float) -> str:
    return text if len(text) <= letters else text[: int(letters) - 1] + "…"
