"""The figure of one image: under each network the channels of its classes, over what the network sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from ..channels.boxes import THRESHOLD
from ..channels.explanation import Explanation
from .pictures import overlay
from .theme import SMALL, WIDTH, Theme, page

_COLUMNS = 5  # pictures side by side
_NOTE = (
    "What the network sees; over it in colour the activation of the channels of a class, brightest where it is largest "
    f"among them. Box: around the largest connected part of the maximum above {THRESHOLD:.0%}. Overlap: from 0, the "
    "channels look at different places, to 1, all at the same. h: diversity score of the class."
)


class Panel(NamedTuple):
    """The part of the figure that is of one network.

    Args:
        name: of the network.
        photo: what it saw, (1 or 3, H, W) in [0, 1].
        explanations: where the channels of one or two classes look there.
    """

    name: str
    photo: Tensor
    explanations: Sequence[Explanation]


def explanation_figure(panels: Sequence[Panel], title: str, theme: Theme) -> Figure:
    """Lines of pictures for each class of each network: the image, the channels, and their maximum."""
    shown = [(panel, explanation) for panel in panels for explanation in panel.explanations]
    lines = [-(-(1 + len(explanation.maps)) // _COLUMNS) for _, explanation in shown]
    rises = [WIDTH / _COLUMNS * panel.photo.shape[1] / panel.photo.shape[2] for panel, _ in shown]
    heights = [0.58 + count * (0.2 + rise) for count, rise in zip(lines, rises, strict=True)]
    heights.append(0.1)  # a margin
    figure, body = page(theme, title, _NOTE, sum(heights))
    *parts, _ = body.subfigures(len(heights), 1, height_ratios=heights)
    for part, count, (panel, explanation) in zip(parts, lines, shown, strict=True):
        text = f"{panel.name}\n{explanation.title()}\n{explanation.numbers()}"
        part.suptitle(_cut(text, 70), x=0.1 / WIDTH, ha="left", fontsize=9)
        axes = list(part.subplots(count, _COLUMNS, squeeze=False).flat)
        for axis in axes:
            axis.set_axis_off()
        grey = panel.photo.mean(dim=0)
        *channels, maximum = (overlay(grey, heat) for heat in explanation.maps)
        pictures = {"image": panel.photo.permute(1, 2, 0).expand(-1, -1, 3).numpy()}
        pictures |= {f"channel {place}": channel for place, channel in enumerate(channels, start=1)}
        for axis, (name, picture) in zip(axes, {**pictures, "maximum": maximum}.items(), strict=False):
            axis.imshow(picture, vmin=0, vmax=1)
            axis.set_title(name, fontsize=SMALL, pad=2, color=theme.muted)
            if name == "maximum" and explanation.box is not None:
                left, top, width, height = explanation.box
                corner = (left - 0.5, top - 0.5)  # pixels are centred on whole numbers
                axis.add_patch(Rectangle(corner, width, height, fill=False, color=theme.colors["sky"], linewidth=1.5))
    return figure


def _cut(text: str, letters: int) -> str:
    """The text with lines of at most so many letters."""
    return "\n".join(line if len(line) <= letters else f"{line[: letters - 1]}…" for line in text.splitlines())
