"""Panels: shapes below each other, and for each a marker or a bar of every provider."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from math import log10
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ..cases import name_of, real_cases
from ..results import Result
from .style import HATCH, Looks, bar_key, keys_of, page

# Of all combinations, one that is usual and one that is as different as possible.
VARIANTS = ("float32 contiguous", "bfloat16 channels_last")
LETTERS = 90  # of small text beside the shapes' names

Panel = tuple[str, list[Result]]
"""Its title and what it shows."""

Grids = Mapping[str, Sequence[Sequence[Panel]]]
"""By the heading of each section, its panels line by line."""


def dots(grids: Grids, looks: Looks, title: str, subtitle: str, unit: str, notes: Sequence[str] = ()) -> Figure | None:
    """A marker for each provider, on a common logarithmic scale in each section; None where there is nothing to draw.

    Args:
        grids: what is drawn.
        looks: of the providers.
        title, subtitle, notes: as in `page`.
        unit: of the scale.
    """
    if not grids:
        return None
    shapes = {heading: shapes_in(rows_of(grid)) for heading, grid in grids.items()}
    line = max(0.2, 0.04 * len(looks))  # inches of a shape
    heights = {heading: 0.3 + len(grid) * (0.5 + line * len(shapes[heading])) for heading, grid in grids.items()}
    figure, parts = page(title, subtitle, keys_of(looks, joined=False), heights, notes)
    for part, (heading, grid) in zip(parts, grids.items(), strict=True):
        axes = frame(part, grid, shapes[heading])
        providers = {row.provider for row in rows_of(grid)}
        drawn = [name for name in looks if name in providers]
        for axis, (_, rows) in zip(axes, chain(*grid), strict=True):
            axis.set_xscale("log")
            for place, name in enumerate(drawn):
                own = [row for row in rows if row.provider == name]
                shift = 0.6 * ((place + 0.5) / len(drawn) - 0.5)  # equal times lie beside each other
                axis.errorbar(
                    [row.value for row in own],
                    [list(shapes[heading]).index(row.shape) + shift for row in own],
                    xerr=quartiles(own),
                    elinewidth=1,
                    label=name,
                    **looks[name].points(joined=False),
                )
        columns = len(grid[0])
        for axis in axes:
            log_ticks(axis.xaxis, axis.get_xlim(), labels=6 if columns < 4 else 4)
        axes[-columns].set_xlabel(unit, loc="left")
    return figure


def bars(
    grids: Grids,
    looks: Looks,
    title: str,
    subtitle: str,
    units: Sequence[str],
    marks: Sequence[float | None],
    notes: Sequence[str] = (),
) -> Figure | None:
    """A column for each provider, in it a bar for each variant, with its number; None where there is nothing to draw.

    Args:
        grids: what is drawn; a panel's title is its provider.
        looks: of the providers.
        title, subtitle, notes: as in `page`.
        units: of each line of panels.
        marks: of each line of panels, the value where a black line is.
    """
    if not grids:
        return None
    shapes = {heading: shapes_in(rows_of(grid)) for heading, grid in grids.items()}
    heights = {heading: len(grid) * (0.75 + 0.27 * len(shapes[heading])) for heading, grid in grids.items()}
    variants = variants_in(row for grid in grids.values() for row in rows_of(grid))
    beside: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7, "va": "center"}
    keys = [bar_key(variant, is_hatched=variant != VARIANTS[0]) for variant in variants]
    figure, parts = page(title, subtitle, keys, heights, notes)
    for part, (heading, grid) in zip(parts, grids.items(), strict=True):
        blocks = part.subfigures(len(grid), 1, squeeze=False)[:, 0]
        for block, line, unit, mark in zip(blocks, grid, units, marks, strict=True):
            axes = frame(block, [line], shapes[heading])
            is_whole = all(row.value % 1 == 0 for row in rows_of([line]))
            for axis, (name, rows) in zip(axes, line, strict=True):
                for place, variant in enumerate(variants):
                    offset = 0.8 * ((place + 0.5) / len(variants) - 0.5)
                    own = {
                        list(shapes[heading]).index(row.shape) + offset: row
                        for row in rows
                        if variant_of(row) == variant
                    }
                    axis.barh(
                        list(own),
                        [row.value for row in own.values()],
                        0.74 / len(variants),
                        color=looks[name].color,
                        edgecolor="white",
                        linewidth=0,
                        hatch=None if variant == VARIANTS[0] else HATCH,
                        xerr=quartiles(list(own.values())),
                        error_kw={"elinewidth": 1},
                    )
                    for height, row in own.items():
                        end = max(row.high, mark or 0)  # the black line shall not cross the number
                        axis.annotate(text_of(row.value, is_whole), (end, height), (3, 0), **beside)
                if mark is not None:
                    axis.axvline(mark, color="black", linewidth=1)
                axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
                axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            axes[0].set_xlim(0, axes[0].get_xlim()[1] * (1.1 + 0.03 * len(axes)))  # room for the numbers
            axes[0].set_xlabel(unit, loc="left")
    return figure


def frame(part: SubFigure, grid: Sequence[Sequence[Panel]], shapes: Mapping[str, str]) -> list[Axes]:
    """Empty panels with their titles, and the shapes' names on the left."""
    axes = part.subplots(len(grid), len(grid[0]), sharex=True, sharey=True, squeeze=False)
    for axis, (title, _) in zip(axes.flat, chain(*grid), strict=True):
        lines = [textwrap.fill(line, LETTERS // len(grid[0])) for line in title.splitlines()]
        axis.set_title("\n".join(lines), loc="left")
        axis.set_yticks(range(len(shapes)), list(shapes.values()))
        axis.set_ylim(len(shapes) - 0.5, -0.5)
        axis.tick_params(axis="y", length=0)
        axis.grid(visible=False, axis="y")
        for place in range(0, len(shapes), 2):
            axis.axhspan(place - 0.5, place + 0.5, color="#f3f3f3", linewidth=0, zorder=0)
    return list(axes.flat)


def quartiles(rows: Sequence[Result]) -> list[list[float]]:
    """Distances of the quartiles from the median, as matplotlib takes them."""
    return [[row.value - row.low for row in rows], [row.high - row.value for row in rows]]


def text_of(value: float, is_whole: bool) -> str:
    """Two figures of a number, or more before the point; all of one that is whole as others beside it are."""
    return f"{value:,.0f}" if value >= 9.95 or is_whole else f"{value:#.2g}"


def log_ticks(axis: Axis, limits: tuple[float, float], labels: int) -> None:
    """Ticks at 1, 2, 5, or fewer where there would be more than so many labels, and numbers without powers of ten."""
    decades = log10(limits[1] / limits[0])
    steps = next((steps for steps in ((1, 2, 5), (1, 3)) if len(steps) * decades <= labels), (1,))
    axis.set_major_locator(LogLocator(subs=steps, numticks=50))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def variant_of(row: Result) -> str:
    """Dtype and layout."""
    return f"{row.dtype} {row.layout}"


def variants_in(rows: Iterable[Result]) -> list[str]:
    """Those of `VARIANTS` that there are."""
    there = {variant_of(row) for row in rows}
    return [variant for variant in VARIANTS if variant in there]


def rows_of(grid: Sequence[Sequence[Panel]]) -> list[Result]:
    """What all panels of a section show."""
    return [row for _, rows in chain(*grid) for row in rows]


def batch_of(shape: str) -> int:
    """B."""
    return int(shape.split("x")[0])


def shapes_in(rows: Iterable[Result]) -> dict[str, str]:
    """Shapes in the order in which they are shown, those with a name first, and what people call them."""
    names = {row.shape: name_of(row.shape) for row in rows}
    order = [*real_cases(), *names.values()]
    there = sorted(names, key=lambda shape: (order.index(names[shape]), batch_of(shape)))
    is_ambiguous = len(set(names.values())) < len(there)
    return {shape: names[shape] + (f", B = {batch_of(shape)}" if is_ambiguous else "") for shape in there}
