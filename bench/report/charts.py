"""The figures of the results: each a function of the results and a theme; None where there is nothing to draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log10
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from reference.figures.theme import SMALL, Theme, page

from ..cases import USUAL, sweeps
from ..count.instructions import H200
from ..count.static import LAUNCH_MICROSECONDS
from ..providers import label
from ..results import DEVICE, PROVIDER, where

DATA_SET = "CUB"  # stands for all: numbers vary little from one data set to the next
VARIANTS = [(str(dtype).removeprefix("torch."), layout) for dtype, layout in USUAL]
FLOOR = 3  # |F|: forward reads the features, backward reads them and writes their gradient
CLOCKS = ["operator", "wall"]  # of a step, the first that there is
_COLORS = {"ours": "orange", "official": "blue", "plain": "green", "Holocron": "pink"}
_FURTHER = ("yellow", "sky", "pink")

Table = pd.DataFrame
Key = tuple[Any, ...]  # values of some columns


@dataclass(frozen=True)
class Look:
    """The marker of a provider in all figures: compiled is hollow and dashed, ours in eager mode square."""

    label: str
    color: str
    marker: str
    is_compiled: bool

    def points(self, theme: Theme, line: str = "none") -> dict[str, Any]:
        """Arguments of matplotlib for its markers."""
        return {
            "color": self.color,
            "marker": self.marker,
            "markersize": 5.5,
            "markerfacecolor": theme.background if self.is_compiled else self.color,
            "linestyle": "--" if self.is_compiled and line != "none" else line,
            "linewidth": 1.3,
            "label": self.label,
        }


def looks(table: Table, theme: Theme) -> dict[Key, Look]:
    """A look for each provider, backend and compiled that the table has, ours first."""
    order = [*_COLORS, *sorted(set(table.provider) - set(_COLORS))]
    colors = dict(zip(order[len(_COLORS) :], _FURTHER * len(order), strict=False)) | _COLORS
    keys = table[PROVIDER].drop_duplicates().itertuples(index=False, name=None)
    return {
        key: Look(label(*key), theme.colors[colors[key[0]]], "s" if key[1] == "eager" else "o", key[2])
        for key in sorted(keys, key=lambda key: (key[2], order.index(key[0]), key[1] != "triton"))
    }


def speedup(results: Table, theme: Theme) -> Figure | None:
    """Time of each peer divided by ours in the same turn."""
    rows = shown(main_device(where(results, metric="ratio", mode="both", busy=0)))
    if rows.empty:
        return None
    ours = where(main_device(where(results, metric="wall", mode="both", busy=0)), provider="ours", compiled=False)
    figure, axes = panels(
        rows,
        theme,
        f"How many times our time the others take{on(rows)}",
        f"A step of MC-Loss, forward + backward, {batch_of(rows)} samples, shapes of {DATA_SET}; median and quartiles "
        f"of the ratio per turn; at the right, our time. {sources(rows)}",
        [[(variant, of_variant(rows, variant)) for variant in VARIANTS]],
        notes={shape: f"{value:.3g} ms" for shape, value in _first(ours).items()},
    )
    low, high = min(rows.low.min(), 0.5), max(rows.high.max(), 2)
    for axis in axes:
        axis.set_xscale("log", base=2)
        axis.set_xlim(low / 1.15, high * 1.15)
        axis.axvline(1, color=theme.ink, linewidth=1)
        ticks = [2.0**power for power in range(-4, 8) if low / 1.15 <= 2.0**power <= high * 1.15]
        axis.xaxis.set_major_locator(FixedLocator(ticks))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes[-1].set_xlabel("← the other is faster  ·  1×: as fast as ours  ·  ours is faster →", loc="left")
    return figure


def memory(results: Table, theme: Theme) -> Figure | None:
    """Peak memory of a step beyond the features, in their size."""
    rows = in_features(shown(main_device(where(results, metric="peak", mode="both", busy=0))))
    if rows.empty:
        return None
    figure, axes = panels(
        rows,
        theme,
        f"Peak memory of a step, beyond the features{on(rows)}",
        f"In units of |F|, the bytes of the features; forward + backward, {batch_of(rows)} samples, shapes of "
        f"{DATA_SET}. The line is the gradient, 1 |F|. {sources(rows)}",
        [[(variant, of_variant(rows, variant)) for variant in VARIANTS]],
    )
    for axis in axes:
        axis.set_xlim(left=0)
        axis.axvline(1, color=theme.ink, linewidth=1)
    axes[-1].set_xlabel("|F|", loc="left")
    return figure


def bytes_launches(results: Table, theme: Theme) -> Figure | None:
    """Bytes that a step moves and kernels that it launches on a GPU."""
    rows = shown(where(results, metric=["traffic", "launches"], mode="both", kernel="", known="counted"))
    if rows.empty:
        return None
    traffic, launches = in_features(where(rows, metric="traffic")), where(rows, metric="launches")
    figure, axes = panels(
        rows,
        theme,
        "Bytes moved and kernels launched in a step on a GPU: counted",
        f"Forward + backward, mask given, {batch_of(rows)} samples, shapes of {DATA_SET}. |F|: the bytes of the "
        f"features; the line is the least possible, {FLOOR} |F|. Compiled: Inductor's code for sm_90, not run. "
        f"{sources(rows)}",
        [[(variant, of_variant(part, variant)) for part in (traffic, launches)] for variant in VARIANTS],
    )
    for axis in axes:
        axis.set_xlim(left=0)
    for axis in axes[::2]:
        axis.axvline(FLOOR, color=theme.ink, linewidth=1)
    axes[-2].set_xlabel("bytes, in |F|", loc="left")
    axes[-1].set_xlabel("kernels launched", loc="left")
    return figure


def instructions(results: Table, theme: Theme) -> Figure | None:
    """Time to issue the instructions of a step beside the time to move its bytes."""
    rows = shown(where(results, metric=["issue time", "memory time"], mode="both", device=H200.name, kernel=""))
    known = where(rows, metric="issue time")[PROVIDER].drop_duplicates()
    rows = rows.merge(known, on=PROVIDER)
    if rows.empty:
        return None
    issue, memory = where(rows, metric="issue time"), where(rows, metric="memory time")
    figure, axes = panels(
        rows,
        theme,
        "Instructions or bytes: what takes longer on an H200? A model",
        f"Least time of a step's kernels, forward + backward, {batch_of(rows)} samples, shapes of {DATA_SET}. Markers: "
        "to issue the counted instructions, 4 per clock and SM. Ticks: to move the counted bytes at "
        f"{H200.bandwidth / 1e3:g} TB/s. Without launches, {LAUNCH_MICROSECONDS:g} µs each. Nobody has measured this. "
        f"{sources(rows)}",
        [[(variant, of_variant(issue, variant)) for variant in VARIANTS]],
    )
    there = looks(rows, theme)
    for axis, variant in zip(axes, VARIANTS, strict=True):
        axis.set_xscale("log")
        for key, height, row in placed(of_variant(memory, variant), shapes_in(rows), list(there)):
            axis.plot(row.value, height, "|", color=there[key].color, markersize=9, markeredgewidth=1.8)
        log_ticks(axis.xaxis, axis.get_xlim(), labels=7)
    axes[-1].set_xlabel("µs", loc="left")
    return figure


def growth(results: Table, theme: Theme) -> Figure | None:
    """Time of a step against each dimension, with the line of proportional growth."""
    rows = where(results, mode="both", network="", metric=CLOCKS, busy=0, dtype="float32", layout="contiguous")
    rows = main_device(rows[rows.provider != "copy"])
    if rows.empty:
        return None
    clock = next(clock for clock in CLOCKS if clock in set(rows.metric))
    rows = where(rows, metric=clock)
    there = looks(rows, theme)
    ideal: dict[str, Any] = {"color": theme.muted, "linestyle": ":", "linewidth": 1.2, "label": "in proportion"}
    keys: list[Artist] = [Line2D([], [], **look.points(theme, "-")) for look in there.values()]
    figure, body = page(
        theme,
        f"Time of a step as each dimension grows{on(rows)}",
        "Forward + backward, float32, contiguous; one dimension varies, the others stay at B = 8, C = 200, ξ = 4, "
        f"P = 196. Median and quartiles; both scales are logarithmic. {sources(rows)}",
        4.3,
        [*keys, Line2D([], [], **ideal)],
    )
    axes = body.subplots(2, 2, sharey=True).flat
    for axis, (dimension, cases) in zip(axes, sweeps().items(), strict=True):
        axis.loglog()
        for key, look in there.items():
            own = where(rows, **dict(zip(PROVIDER, key, strict=True)))
            sizes = pd.concat([where(own, **case.facts).assign(size=size) for size, case in cases.items()])
            error = [sizes.value - sizes.low, sizes.high - sizes.value]
            axis.errorbar(sizes["size"], sizes.value, yerr=error, elinewidth=1, **look.points(theme, "-"))
            if look is next(iter(there.values())) and len(sizes) > 1:
                middle, ends = sizes.iloc[len(sizes) // 2], sizes["size"].iloc[[0, -1]]
                axis.plot(ends, middle.value * ends / middle["size"], scaley=False, **ideal)
        axis.set_xlabel(dimension)
        axis.set_xticks(list(cases), [f"{size:,}" for size in cases])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_ylabel("ms" if axis.get_subplotspec().is_first_col() else "")
    log_ticks(axis.yaxis, axis.get_ylim(), labels=7)
    return figure


FIGURES: dict[str, Callable[[Table, Theme], Figure | None]] = {
    "speedup": speedup,
    "growth": growth,
    "memory": memory,
    "bytes_launches": bytes_launches,
    "instructions": instructions,
}


def panels(
    rows: Table,
    theme: Theme,
    title: str,
    subtitle: str,
    grid: Sequence[Sequence[tuple[tuple[str, str], Table]]],
    notes: dict[Key, str] | None = None,
) -> tuple[Figure, list[Axes]]:
    """A figure with a line per shape and a marker per provider.

    Args:
        rows: all that is drawn, for the shapes and the legend.
        theme, title, subtitle: as in `page`.
        grid: the panels, each a dtype and layout and its rows. A single line of panels is drawn as a column.
        notes: a text at the right of a shape, by its facts.
    """
    there, shapes = looks(rows, theme), shapes_in(rows)
    lines = [[panel] for panel in grid[0]] if len(grid) == 1 else grid
    height = len(lines) * (0.55 + len(shapes) * max(0.36, 0.1 * len(there)))
    keys: list[Artist] = [Line2D([], [], **look.points(theme)) for look in there.values()]
    figure, body = page(theme, title, subtitle, height + 0.2, keys)
    axes = body.subplots(len(lines), len(lines[0]), sharex="col", sharey=True, squeeze=False)
    for axis, (variant, of) in zip(axes.flat, [panel for line in lines for panel in line], strict=True):
        if axis.get_subplotspec().is_first_col():
            axis.set_title(", ".join(variant))
        axis.set_yticks(range(len(shapes)), [f"{shape[1]}\n{shape[3]}×{shape[4]}×{shape[4]}" for shape in shapes])
        axis.set_ylim(len(shapes) - 0.5, -0.5)
        axis.tick_params(axis="y", length=0)
        axis.grid(visible=False, axis="y")
        for place in range(0, len(shapes), 2):
            axis.axhspan(place - 0.5, place + 0.5, color=theme.grid, alpha=0.4, linewidth=0, zorder=0)
        for key, place, row in placed(of, shapes, list(there)):
            error = [[row.value - row.low], [row.high - row.value]]
            axis.errorbar(row.value, place, xerr=error, elinewidth=1, **there[key].points(theme))
        for place, shape in enumerate(shapes):
            if note := (notes or {}).get((*shape, *variant)):
                axis.annotate(
                    note,
                    (1, place),
                    (3, 0),
                    ("axes fraction", "data"),
                    "offset points",
                    va="center",
                    fontsize=SMALL,
                    color=theme.muted,
                    annotation_clip=False,
                )
    return figure, list(axes.flat)


SHAPE = ["data_set", "network", "pixels", "channels", "side"]


def shapes_in(rows: Table) -> list[Key]:
    """The facts `SHAPE` of each shape, in the order of `real_cases`."""
    return list(rows[SHAPE].drop_duplicates().itertuples(index=False, name=None))


def placed(rows: Table, shapes: list[Key], providers: list[Key]) -> list[tuple[Any, float, Any]]:
    """Provider, height and row of each marker: the providers of a shape stand below each other."""
    found = []
    for row in rows.itertuples():
        key = tuple(getattr(row, name) for name in PROVIDER)
        shift = 0.7 * ((providers.index(key) + 0.5) / len(providers) - 0.5)
        found.append((key, shapes.index(tuple(getattr(row, name) for name in SHAPE)) + shift, row))
    return found


def shown(rows: Table) -> Table:
    """The rows of the data set that stands for all, in full and in mixed precision."""
    rows = where(rows, data_set=DATA_SET)
    return pd.concat([of_variant(rows, variant) for variant in VARIANTS])


def of_variant(rows: Table, variant: tuple[str, str]) -> Table:
    """The rows of a dtype and layout."""
    return where(rows, dtype=variant[0], layout=variant[1])


def main_device(rows: Table) -> Table:
    """The rows of one device: a GPU where there is one (it has no threads), else the CPU with the most threads."""
    devices = sorted(
        rows[DEVICE].drop_duplicates().itertuples(index=False, name=None), key=lambda one: (one[1] != 0, -one[1])
    )
    return where(rows, **dict(zip(DEVICE, devices[0], strict=True))) if devices else rows


def in_features(rows: Table) -> Table:
    """Rows of bytes in units of |F|."""
    itemsize = rows.dtype.map({"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8})
    nbytes = rows.samples * rows.channels * rows.side**2 * itemsize
    return rows.assign(**{name: rows[name] / nbytes for name in ("value", "low", "high")})


def on(rows: Table) -> str:
    """For a title: the device that the rows were measured on."""
    device = rows.iloc[0]
    threads = f", {device.threads} thread" + ("s" if device.threads > 1 else "")
    return f" on {device.device}" + (threads if device.threads else "")


def sources(rows: Table) -> str:
    """For a subtitle: versions, commits and dates."""
    versions = [
        f"Python {row.python}, torch {row.torch}, triton {row.triton}"
        for row in rows.drop_duplicates(["python", "torch", "triton"]).itertuples()
    ]
    return f"{'; '.join(versions)}; commit {', '.join(sorted(set(rows.commit)))}; {max(rows.date)}."


def batch_of(rows: Table) -> str:
    """The number of samples."""
    return " or ".join(map(str, sorted(set(rows.samples))))


def log_ticks(axis: Axis, limits: tuple[float, float], labels: int) -> None:
    """Ticks at 1, 2, 5, or fewer where there would be more than so many labels, as plain numbers."""
    decades = log10(limits[1] / limits[0])
    steps = next((steps for steps in ((1, 2, 5), (1, 3)) if len(steps) * decades <= labels), (1,))
    axis.set_major_locator(LogLocator(subs=steps, numticks=50))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _first(rows: Table) -> dict[Key, float]:
    """Values by shape and variant, of the provider that the rows begin with."""
    first = rows.drop_duplicates([*SHAPE, "dtype", "layout"])
    return {tuple(row[:-1]): row[-1] for row in first[[*SHAPE, "dtype", "layout", "value"]].itertuples(index=False)}
