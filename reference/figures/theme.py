"""The look of every figure: legible at 400 pixels wide, in a light and a dark variant.

A figure is a function of a `Theme`; `save` writes its two files, NAME-light and NAME-dark. A page shows the one that
suits its reader: ``<picture>`` in the README, ``#only-light`` and ``#only-dark`` in docs/.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib.style
from matplotlib.artist import Artist
from matplotlib.figure import Figure, SubFigure
from matplotlib.transforms import Bbox

WIDTH = 5.6  # inches: letters of 10 points are 10 pixels high where the figure is 400 pixels wide
SMALL = 8  # points
_LETTERS = {"title": 50, "small": 86}  # in a line
_LINE = 0.16  # inches of a line of small letters


@dataclass(frozen=True)
class Theme:
    """Colours of a variant.

    Attributes:
        name: "light" or "dark".
        background, ink, muted, grid: of the paper, of letters, of small letters, of lines behind the data.
        colors: of the data by name, after Okabe and Ito: distinct with every kind of colour vision.
    """

    name: str
    background: str
    ink: str
    muted: str
    grid: str
    colors: Mapping[str, str]


LIGHT = Theme(
    *("light", "#ffffff", "#1f2328", "#59636e", "#dde2e8"),
    {
        "orange": "#d55e00",
        "blue": "#0072b2",
        "green": "#009e73",
        "pink": "#cc79a7",
        "yellow": "#e69f00",
        "sky": "#56b4e9",
    },
)
DARK = Theme(
    *("dark", "#0d1117", "#e6edf3", "#a3adb8", "#2c333c"),
    {
        "orange": "#ff8a4c",
        "blue": "#58a6ff",
        "green": "#3fcf8e",
        "pink": "#e8a2cc",
        "yellow": "#f2c14e",
        "sky": "#a5d8f7",
    },
)


@contextmanager
def use(theme: Theme) -> Iterator[None]:
    """Draw with the theme's colours, whatever the user's own settings."""
    settings = {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],  # the first two are equally wide
        "font.size": 9.5,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.labelsize": 9,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "legend.fontsize": 9,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "figure.facecolor": theme.background,
        "savefig.facecolor": theme.background,
        "axes.facecolor": theme.background,
        "text.parse_math": False,  # a file or a class may have dollars in its name
        "text.color": theme.ink,
        "axes.labelcolor": theme.ink,
        "axes.titlecolor": theme.ink,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelcolor": theme.ink,
        "ytick.labelcolor": theme.ink,
        "axes.edgecolor": theme.muted,
        "grid.color": theme.grid,
        "svg.fonttype": "none",
        "svg.hashsalt": "figures",  # the same data give the same file
    }
    with matplotlib.style.context(["default", settings]):
        yield


def page(
    theme: Theme, title: str, subtitle: str, height: float, keys: Sequence[Artist] = (), columns: int = 3
) -> tuple[Figure, SubFigure]:
    """An empty figure with its title, and below it, in small type, data, device and versions; then the legend.

    Args:
        theme: the variant, which is in `use`.
        title, subtitle: they are wrapped.
        height: of the part to draw on, in inches.
        keys, columns: of the legend.

    Returns:
        The figure, and the part to draw on.
    """
    titles, small = textwrap.wrap(title, _LETTERS["title"]), textwrap.wrap(subtitle, _LETTERS["small"])
    heights = [0.12 + 0.24 * len(titles), 0.06 + _LINE * len(small), 0.22 * -(-len(keys) // columns) + 0.06, height]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    title_part, small_part, legend_part, body = figure.subfigures(4, 1, height_ratios=heights, squeeze=False)[:, 0]
    left = 0.1 / WIDTH
    title_part.text(left, 0, "\n".join(titles), fontsize=12.5, weight="bold", va="bottom")
    small_part.text(left, 1, "\n".join(small), fontsize=SMALL, color=theme.muted, va="top", linespacing=1.35)
    if keys:
        legend_part.legend(
            handles=[key for column in range(columns) for key in keys[column::columns]],  # row by row
            ncols=columns,
            loc="center left",
            bbox_to_anchor=(left, 0.5),
            borderpad=0,
            borderaxespad=0,
            columnspacing=1.4,
            handletextpad=0.5,
        )
    return figure, body


def save(draw: Callable[[Theme], Figure], folder: Path, name: str, kind: str = "svg", dpi: int = 200) -> list[Path]:
    """Write both variants of a figure, byte for byte the same whenever the figure is.

    Args:
        draw: called with each theme, while it is in `use`.
        folder: it is made.
        name: of the files, without "-light.svg".
        kind: "svg" for drawings, "png" for photographs.
        dpi: of photographs; 200 are 1120 pixels.
    """
    paths = [folder / f"{name}-{theme.name}.{kind}" for theme in (LIGHT, DARK)]
    for path, theme in zip(paths, (LIGHT, DARK), strict=True):
        save_one(draw, theme, path, dpi)
    return paths


def save_one(draw: Callable[[Theme], Figure], theme: Theme, path: Path, dpi: int = 200) -> None:
    """Write one variant of a figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with use(theme):
        figure = draw(theme)
        fix_layout(figure)
        figure.savefig(path, dpi=dpi, metadata={"Date": None} if path.suffix == ".svg" else None)


def fix_layout(figure: Figure) -> None:
    """Fix the layout: its solver does not repeat itself to the last bit."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for part in figure.findobj(SubFigure):
        part.bbox_relative.set_points(part.bbox_relative.get_points().round(4))
    for axis in figure.axes:
        axis.set_position(Bbox(axis.get_position().get_points().round(4)))
