"""The common style of all figures: whose colour and marker is which, the frame around the panels, the files."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.artist import Artist
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox
from PIL import Image

GREY = "#5a5a5a"
HATCH = "//////"
# Of Okabe and Ito: told apart with every kind of colour vision; the markers differ too.
_KNOWN = {
    "ours, Triton": ("#D55E00", "o"),
    "ours, eager": ("#0072B2", "s"),
    "official": ("#E69F00", "D"),
    "plain": ("#009E73", "^"),
    "Holocron": ("#CC79A7", "X"),
    "copy": ("#000000", "|"),
}
_FURTHER = (("#56B4E9", "v"), ("#999999", "P"), ("#F0E442", "*"), ("#CC79A7", "p"))
_COMPILED = ", compiled"

_WIDTH = 9.0  # inches: 900 pixels of a README, at the size of letters below
_MARGIN = 0.1
_LINE = 0.17  # inches of a line of small text
_LETTERS = 132  # of small text in a line
_STYLE = {
    "figure.constrained_layout.h_pad": 0.05,
    "figure.constrained_layout.w_pad": 0.05,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],  # the first two are equally wide
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.alpha": 0.35,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "hatch.linewidth": 0.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "bench",  # the same data give the same file
}


@dataclass(frozen=True)
class Look:
    """How a provider is drawn, in all figures alike: what is compiled is hollow and dashed."""

    color: str
    marker: str
    is_compiled: bool = False

    def points(self, joined: bool) -> dict[str, Any]:
        """Arguments of matplotlib for markers, joined by a line or not."""
        return {
            "color": self.color,
            "marker": self.marker,
            "markersize": 5,
            "markerfacecolor": "white" if self.is_compiled else self.color,
            "linestyle": "none" if not joined else "--" if self.is_compiled else "-",
            "linewidth": 1.3,
        }


Looks = dict[str, Look]
"""By the name of the provider, in the order in which they are drawn."""


def looks_of(providers: Iterable[str]) -> Looks:
    """A look for each provider; unknown ones get further colours."""
    names = set(providers)
    unknown = sorted({name.removesuffix(_COMPILED) for name in names} - set(_KNOWN))
    styles = dict(_KNOWN) | {name: _FURTHER[i % len(_FURTHER)] for i, name in enumerate(unknown)}
    looks: Looks = {}
    for suffix in ("", _COMPILED):
        for name, (color, marker) in styles.items():
            if name + suffix in names:
                looks[name + suffix] = Look(color, marker, is_compiled=bool(suffix))
    return looks


def keys_of(looks: Looks, joined: bool) -> list[Artist]:
    """The providers in a legend."""
    return [Line2D([], [], label=name, **look.points(joined)) for name, look in looks.items()]


def bar_key(name: str, is_hatched: bool) -> Artist:
    """A kind of bar in a legend, whatever its colour."""
    return Patch(facecolor=GREY, edgecolor="white", hatch=HATCH if is_hatched else None, linewidth=0, label=name)


def page(
    title: str, subtitle: str, keys: Sequence[Artist], sections: Mapping[str, float], notes: Sequence[str]
) -> tuple[Figure, list[SubFigure]]:
    """An empty figure: title, subtitle and legend above, the sections below each other, notes at the foot.

    Args:
        title: one line.
        subtitle: what is shown, and how it was found; it is wrapped.
        keys: of the legend.
        sections: the heading of each and the height of its panels in inches.
        notes: lines at the foot.

    Returns:
        The figure, and what each section is drawn on.
    """
    above = textwrap.wrap(subtitle, _LETTERS)
    below = [line for note in notes for line in textwrap.wrap(note, _LETTERS)]
    columns = 4 if len(keys) > 5 else max(len(keys), 1)
    legend = 0.2 * -(-len(keys) // columns)
    head, foot = 0.35 + _LINE * len(above) + legend + 0.18, _LINE * len(below) + _MARGIN
    heights = [head, *(0.3 + height for height in sections.values()), foot]
    figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained", facecolor="white")
    top, *parts, bottom = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]

    left = _MARGIN / _WIDTH
    top.text(left, 1 - _MARGIN / head, title, fontsize=11.5, weight="bold", va="top")
    top.text(left, 1 - 0.35 / head, "\n".join(above), color=GREY, va="top", linespacing=1.4)
    if keys:
        top.legend(
            handles=keys,
            ncols=columns,
            loc="upper left",
            bbox_to_anchor=(left, (legend + 0.1) / head),
            borderpad=0,
            borderaxespad=0,
            handlelength=2.4,
        )
    bottom.text(left, 1, "\n".join(below), color=GREY, va="top", linespacing=1.4)
    for part, heading in zip(parts, sections, strict=True):
        part.suptitle(heading, x=left, ha="left", fontsize=9, weight="bold")
    return figure, parts


@contextmanager
def style() -> Iterator[None]:
    """What is drawn within looks the same, whatever the user's own settings."""
    with matplotlib.style.context(["default", _STYLE]):
        yield


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write an SVG and a PNG file, byte for byte the same whenever the figure is."""
    folder.mkdir(parents=True, exist_ok=True)
    with style(), BytesIO() as buffer:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # it is laid out now, once for both files
        # The solver of the layout does not repeat itself to the last bit.
        for part in figure.findobj(SubFigure):
            part.bbox_relative.set_points(part.bbox_relative.get_points().round(4))
        for axis in figure.axes:
            axis.set_position(Bbox(axis.get_position().get_points().round(4)))
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        figure.savefig(buffer, dpi=150)
        with Image.open(buffer) as image:  # with 64 colours it takes a third of the bytes and looks the same
            palette = image.convert("RGB").quantize(64, dither=Image.Dither.NONE)
            palette.save(folder / f"{name}.png", optimize=True)
