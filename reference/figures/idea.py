"""The idea of MC-Loss in one drawing. Nothing is measured."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, PathPatch
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D

from .theme import SMALL, Theme, page

_SIDE = 13.0  # of a picture, in hundredths of the width
_CHANNELS = ("orange", "sky", "green")
_ALIKE = (
    (0.46, 0.50),
    (0.58, 0.52),
    (0.51, 0.61),
)  # where each channel looks, in a picture of side 1, down from the upper left
_APART = ((0.30, 0.22), (0.66, 0.40), (0.78, 0.84))


def idea(theme: Theme) -> Figure:
    """A class's channels, the term that masks some of them, and the term that moves them apart."""
    figure, body = page(
        theme,
        "MC-Loss: each class owns a few feature channels",
        "Added to the cross-entropy in training. At test time the classifier answers alone.",
        3.15,
    )
    axis = body.subplots()
    axis.set_xlim(0, 100)
    axis.set_ylim(56, 0)
    axis.set_axis_off()

    _heading(axis, theme, 0, "Discriminality", "half of its channels are masked; the others still recognise the class")
    y = 9.0
    _picture(axis, theme, 1, y)
    _arrow(axis, theme, 15.5, 20.5, y + _SIDE / 2)
    for place, (name, spot) in enumerate(zip(_CHANNELS, _APART, strict=True)):
        _picture(axis, theme, 22 + 15 * place, y, {name: spot}, is_masked=place == 1)
    _arrow(axis, theme, 66.5, 71.5, y + _SIDE / 2)
    axis.text(73, y + 2.5, "max over channels,\nmean over places", va="center", color=theme.muted, fontsize=SMALL + 0.5)
    axis.text(73, y + 9.5, "score of its class ↑", va="center", weight="bold")

    _heading(axis, theme, 26, "Diversity", "the channels of a class look at different places")
    y = 35.0
    for x, spots, text in ((22, _ALIKE, "h near 1 of 3"), (58, _APART, "h near 3 of 3")):
        _picture(axis, theme, x, y, dict(zip(_CHANNELS, spots, strict=True)), side=1.4 * _SIDE)
        axis.text(x + 0.7 * _SIDE, y + 1.4 * _SIDE + 2, text, ha="center", va="center", fontsize=SMALL + 0.5)
    _arrow(axis, theme, 43, 55, y + 0.7 * _SIDE)
    return figure


def _heading(axis: Axes, theme: Theme, y: float, title: str, text: str) -> None:
    axis.text(1, y + 2, title, weight="bold", va="center")
    axis.text(1, y + 5.8, text, va="center", color=theme.muted, fontsize=SMALL + 0.5)


def _arrow(axis: Axes, theme: Theme, start: float, end: float, y: float) -> None:
    options = {"arrowstyle": "-|>", "mutation_scale": 9, "color": theme.muted, "linewidth": 1.2}
    axis.add_patch(FancyArrowPatch((start, y), (end, y), shrinkA=0, shrinkB=0, **options))


def _picture(
    axis: Axes,
    theme: Theme,
    x: float,
    y: float,
    spots: Mapping[str, tuple[float, float]] | None = None,
    side: float = _SIDE,
    is_masked: bool = False,
) -> None:
    """The letter that stands for an image, with a spot of colour for each channel."""
    frame = FancyBboxPatch((x, y), side, side, boxstyle="round,pad=0,rounding_size=1", linewidth=0.8)
    frame.set(facecolor=theme.background, edgecolor=theme.muted)
    axis.add_patch(frame)
    axis.add_patch(PathPatch(_letter(x, y, side), facecolor=theme.grid if spots else theme.muted, linewidth=0))
    for name, (across, down) in (spots or {}).items():
        for radius in (0.2, 0.15, 0.1, 0.05):
            spot = Circle((x + across * side, y + down * side), radius * side, linewidth=0, alpha=0.3)
            spot.set_facecolor(theme.muted if is_masked else theme.colors[name])
            spot.set_clip_path(frame)
            axis.add_patch(spot)
    if is_masked:
        for ends in ((y + 1, y + side - 1), (y + side - 1, y + 1)):
            axis.plot((x + 1, x + side - 1), ends, color=theme.ink, linewidth=1.5, solid_capstyle="round")


def _letter(x: float, y: float, side: float) -> Outline:
    """The outline of an R with serifs that fills a picture."""
    outline = TextPath((0, 0), "R", size=1, prop={"family": "DejaVu Serif", "weight": "bold"})
    box = outline.get_extents()
    scale = 0.72 * side / max(box.width, box.height)
    centred = Affine2D().translate(-(box.x0 + box.x1) / 2, -(box.y0 + box.y1) / 2).scale(scale, -scale)
    return outline.transformed(centred.translate(x + side / 2, y + side / 2))
