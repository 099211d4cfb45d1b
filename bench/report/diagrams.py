"""Diagrams of the idea and of the kernels' data flow. Nothing is measured: bytes follow from the shapes."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Patch, Rectangle

from reference.figures.idea import idea
from reference.figures.theme import SMALL, Theme, page

from ..cases import real_cases

FLOWING = "CUB, VGG16 or ResNet18, 448 pixels"
_FILLS = {  # of boxes, by theme
    "light": {"memory": "#dcebf7", "ours": "#fbe3d4"},
    "dark": {"memory": "#17324a", "ours": "#4a2a17"},
}


def data_flow(theme: Theme) -> Figure:
    """The reads and writes of the three kernels of a step whose mask is given."""
    case = real_cases()[FLOWING]
    maps, rows = case.batch * case.groups.num_channels, case.batch * case.groups.num_classes
    features, statistics, winners = _bytes(case.nbytes), _bytes(maps * 8), _bytes(rows * case.side**2)
    fills = _FILLS[theme.name]
    figure, body = page(
        theme,
        "Data flow: a step reads the features twice and writes their gradient once",
        f"{FLOWING}: {case.shape.replace('x', '×')}, float32. Thick arrows carry |F|, the bytes of the features: three "
        "per step, the least possible. Maps too large for the registers of a program are looked at twice each way; a "
        "cache is meant to serve the second look. Not drawn: the mask, N numbers, the targets, and the tables of the "
        "groups.",
        3.9,
        [
            Patch(facecolor=fills["memory"], label="memory of the GPU"),
            Patch(facecolor=fills["ours"], label="our kernels"),
        ],
    )
    axis = body.subplots()
    axis.set_xlim(0, 100)
    axis.set_ylim(80, 0)
    axis.set_axis_off()
    _box(axis, theme, 1, 1, 98, 10, "memory", f"features F, (B, N, P): {features}")
    _box(axis, theme, 1, 28, 34, 20, "ours", "forward:\nsoftmax and M·F,\nCCMP, then GAP\nand the sum")
    _box(axis, theme, 45, 30, 14, 16, "ours", "head:\nthe loss,\nand back")
    _box(axis, theme, 69, 28, 30, 20, "ours", "backward:\nsoftmax again,\nthen the gradient\nof each channel")
    kept = f"maximum and 1/Σ exp of each map,\n2 × (B, N): {statistics}\nwinners at each position, (B, C, P): {winners}"
    _box(axis, theme, 1, 62, 60, 17, "memory", kept)
    _box(axis, theme, 66, 62, 33, 17, "memory", f"gradient dF:\n{features}")
    _arrow(axis, theme, (18, 11), (18, 28), 5, "read: 1 |F|", (21, 19.5))
    _arrow(axis, theme, (84, 11), (84, 28), 5, "read: 1 |F|", (81, 19.5), ha="right")
    _arrow(axis, theme, (90, 48), (90, 62), 5, "written: 1 |F|", (87, 58), ha="right")
    _arrow(axis, theme, (18, 48), (18, 62), 1, "written", (20, 55))
    _arrow(axis, theme, (58, 62), (72, 48), 1, "read", (61, 55), ha="right")
    _arrow(axis, theme, (35, 38), (45, 38), 1, f"g, h\n{_bytes(rows * 8)}", (40, 25), ha="center")
    _arrow(
        axis,
        theme,
        (59, 38),
        (69, 38),
        1,
        f"dg, dh\n{_bytes(rows * 4 + case.groups.num_classes * 4)}",
        (64, 25),
        ha="center",
    )
    return figure


DIAGRAMS: dict[str, Callable[[Theme], Figure]] = {"data_flow": data_flow, "idea": idea}


def _box(axis: Axes, theme: Theme, x: float, y: float, width: float, height: float, kind: str, text: str) -> None:
    color = _FILLS[theme.name][kind]
    axis.add_patch(Rectangle((x, y), width, height, facecolor=color, edgecolor=theme.muted, linewidth=0.8))
    axis.text(x + width / 2, y + height / 2, text, linespacing=1.3, ha="center", va="center")


def _arrow(
    axis: Axes,
    theme: Theme,
    start: tuple[float, float],
    end: tuple[float, float],
    width: float,
    label: str,
    at: tuple[float, float],
    ha: str = "left",
) -> None:
    shape = f"simple,head_length={4 + 1.5 * width},head_width={4 + 2 * width},tail_width={width}"
    options = {"mutation_scale": 1, "color": theme.muted, "linewidth": 0, "shrinkA": 0, "shrinkB": 0}
    axis.add_patch(FancyArrowPatch(start, end, arrowstyle=shape, **options))
    axis.text(*at, label, ha=ha, va="center", color=theme.muted, fontsize=SMALL + 0.5)


def _bytes(number: float) -> str:
    return f"{number / 1e6:.1f} MB" if number >= 1e6 else f"{number / 1e3:.0f} kB"
