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
    "light": {"memory": "#dcebf7", "ours": "#fbe3d4", "theirs": "#e9e9e9"},
    "dark": {"memory": "#17324a", "ours": "#4a2a17", "theirs": "#30363d"},
}


def data_flow(theme: Theme) -> Figure:
    """The reads and writes of the two kernels of a step."""
    case = real_cases()[FLOWING]
    maps, rows = case.batch * case.groups.num_channels, case.batch * case.groups.num_classes
    features, saved, results = _bytes(case.nbytes), _bytes(maps * (case.dtype.itemsize + 4)), _bytes(rows * 8)
    fills = _FILLS[theme.name]
    figure, body = page(
        theme,
        "Data flow: a step reads the features twice and writes their gradient once",
        f"{FLOWING}: {case.shape.replace('x', '×')}, float32. Thick arrows carry |F|, the bytes of the features: three "
        "per step, the least possible. Backward looks at the features twice, and so does forward of position_blocks; a "
        "cache is meant to serve the second look. In 16 bits the maximum takes 2 bytes, the sum 4. Not drawn: the "
        "mask, N numbers, and the offsets of the groups, C + 1.",
        3.9,
        [
            Patch(facecolor=fills["memory"], label="memory of the GPU"),
            Patch(facecolor=fills["ours"], label="our kernels"),
            Patch(facecolor=fills["theirs"], label="PyTorch"),
        ],
    )
    axis = body.subplots()
    axis.set_xlim(0, 100)
    axis.set_ylim(80, 0)
    axis.set_axis_off()
    _box(axis, theme, 1, 1, 98, 10, "memory", f"features F, (B, N, P): {features}")
    _box(axis, theme, 1, 28, 34, 20, "ours", "forward:\nsoftmax and M·F,\nCCMP, then GAP\nand the sum")
    _box(axis, theme, 45, 30, 14, 16, "theirs", "loss,\nand back\nto dg, dh")
    _box(axis, theme, 69, 28, 30, 20, "ours", "backward:\nsoftmax again,\nwho won, then\nthe gradient")
    _box(axis, theme, 1, 65, 60, 13, "memory", f"maximum and 1/Σ exp of each map,\n2 × (B, N): {saved}")
    _box(axis, theme, 66, 65, 33, 13, "memory", f"gradient dF:\n{features}")
    _arrow(axis, theme, (18, 11), (18, 28), 5, "read: 1 |F|", (21, 19.5))
    _arrow(axis, theme, (84, 11), (84, 28), 5, "read: 1 |F|", (81, 19.5), ha="right")
    _arrow(axis, theme, (90, 48), (90, 65), 5, "written: 1 |F|", (87, 60.5), ha="right")
    _arrow(axis, theme, (18, 48), (18, 65), 1, "written", (20, 56.5))
    _arrow(axis, theme, (58, 65), (72, 48), 1, "read", (61, 56.5), ha="right")
    _arrow(axis, theme, (35, 38), (45, 38), 1, f"g, h\n{results}", (40, 25), ha="center")
    _arrow(axis, theme, (59, 38), (69, 38), 1, f"dg, dh\n{results}", (62, 25), ha="center")
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
