"""Draw what the kernels do, for docs/kernels.md: how features are cut into tiles, and what a step reads and writes.

Nothing is measured. The tiles are those that the rules of `mcl_triton.kernels.launch` choose; the bytes follow from
the shapes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import FancyArrowPatch, Patch, Rectangle

from mcl_triton.groups import flat_runs
from mcl_triton.kernels.launch import Launch, Strides, channel_offsets, choose

from ..cases import Case, real_cases
from .style import GREY, HATCH, page, save, style

CLASS_COLORS = ("#9ecae9", "#fdd0a2", "#a8dab5", "#e3c1dd")  # neighbouring classes differ
PROGRAM, EMPTY = "#1a1a1a", "#ececec"
OURS, THEIRS, MEMORY = "#fbe3d4", "#e8e8e8", "#dcebf7"
TILED = "CUB, VGG16 or ResNet18, 224 pixels"
FLOWING = "CUB, VGG16 or ResNet18, 448 pixels"

_CENTRE = {"ha": "center", "va": "center"}
_RIGHT = {"ha": "right", "va": "center"}


@dataclass(frozen=True)
class Tile:
    """What one program works on, of one sample."""

    number: int
    classes: range
    channels: range

    @property
    def program(self) -> str:
        return f"program {self.number}"

    @property
    def classes_label(self) -> str:
        return f"classes {self.classes[0]}–{self.classes[-1]}"

    @property
    def channels_label(self) -> str:
        return f"channels {self.channels[0]}–{self.channels[-1]}"


def launch_of(case: Case, is_channels_last: bool) -> Launch:
    """The launch of the kernels for a case in either layout."""
    channels, positions = case.groups.num_channels, case.side**2
    strides = (1, channels) if is_channels_last else (positions, 1)
    return choose(
        tuple(flat_runs(case.groups)), positions, case.dtype.itemsize, Strides(channels * positions, *strides)
    )


def tiles_of(launch: Launch, case: Case) -> list[Tile]:
    """The tiles of a sample."""
    offsets = channel_offsets(tuple(flat_runs(case.groups)))
    return [
        Tile(number, range(first, end), range(offsets[first], offsets[end]))
        for number, (first, end) in enumerate(zip(launch.cuts, launch.cuts[1:], strict=False))
    ]


def _around_larger_groups(case: Case, launch: Launch) -> list[Tile]:
    """The tile with the first class of the second size, between its neighbours."""
    tiles = tiles_of(launch, case)
    middle = next(tile.number for tile in tiles if case.groups.runs[0][0] in tile.classes)
    return tiles[middle - 1 : middle + 2]


def draw_tiles() -> Figure:
    """Both families of kernels on the features of one sample, where the size of the groups changes."""
    case = real_cases()[TILED]
    row_launch, block_launch = launch_of(case, False), launch_of(case, True)
    figure, (rows, blocks) = page(
        "Tiles: what one program works on",
        f"{TILED}: one sample of {_times(case.shape.partition('x')[2])}, float32, around the first class of "
        f"{max(case.groups.sizes)} channels, cut by the rules that launch the kernels. "
        "The channels of one class have one colour.",
        [
            Patch(facecolor="white", edgecolor=PROGRAM, linewidth=1.1, label="the share of a program, or a tile of it"),
            Patch(facecolor=EMPTY, edgecolor="white", hatch=HATCH, linewidth=0, label="masked: nothing is there"),
        ],
        {
            "whole_maps, for maps in rows of memory (contiguous): a tile has the whole map of a channel": 3.0,
            "position_blocks, for channels_last: a tile has all channels of its classes in a block of positions": 2.9,
        },
        ["Drawn by python -m bench drawings."],
    )
    axis = _canvas(rows, (-44, 190), (24, -3))
    _draw_rows_of_programs(axis, case, row_launch)
    _draw_channels_of_a_program(axis, 80, case, row_launch)
    axis = _canvas(blocks, (-20, 262), (82, -15))
    _draw_blocks_of_positions(axis, case, block_launch)
    _draw_slots(axis, 148, case, block_launch)
    return figure


def _draw_rows_of_programs(axis: Axes, case: Case, launch: Launch) -> None:
    """Two programs of `whole_maps`: which channels are theirs, one below the other, positions from left to right."""
    positions, width = case.side**2, launch.constants["TILE_POSITIONS"]
    y = 0
    for tile in _around_larger_groups(case, launch)[:2]:
        for row, channel in enumerate(tile.channels):
            _map_row(axis, 0, y + row, positions, width, _color_of_channel(case, channel))
        height = len(tile.channels)
        _outline(axis, 0, y, width, height)
        axis.text(-2, y + height / 2, f"{tile.program}: {tile.classes_label},\n{tile.channels_label}", **_RIGHT)
        y += height + 1
    axis.text(positions / 2, -1, f"{positions} positions", ha="center")
    axis.text((positions + width) / 2, -1, f"of {width}", ha="center", color=GREY)
    axis.text(0, y + 0.4, "Each row is one channel's map:\na softmax needs no other.", va="top", color=GREY)


def _draw_channels_of_a_program(axis: Axes, left: float, case: Case, launch: Launch) -> None:
    """What one of them does: a tile for each channel of its classes, down to class scores g and diversity scores h."""
    positions, width = case.side**2, launch.constants["TILE_POSITIONS"]
    tile = _around_larger_groups(case, launch)[1]
    right, height = left + width, len(tile.classes)
    steps = launch.constants["CHANNELS_A_STEP"]
    axis.text(left, -1, f"Program {tile.number}: tiles of {height} × {width}, {steps} channels a step")
    y = 0.0
    for place in range(max(case.groups.sizes[index] for index in tile.classes)):
        for row, index in enumerate(tile.classes):
            color = _color(index) if place < case.groups.sizes[index] else EMPTY
            _map_row(axis, left, y + row, positions, width, color)
        _outline(axis, left, y, width, height)
        axis.text(right + 2, y + height / 2, f"channel {place} of each class", va="center")
        y += height + 1
    _arrow(axis, (left + width / 2, y - 0.9), (left + width / 2, y + 1.1))
    axis.text(left + width / 2 + 2, y, "softmax and M·F, CCMP", va="center")
    y += 1.2
    for row in range(height):
        _map_row(axis, left, y + row, positions, width, "white")
    _outline(axis, left, y, width, height)
    axis.text(left + positions / 2, y + height / 2, "the largest so far,\nat each position", **_CENTRE)
    _arrow(axis, (right + 1, y + height / 2), (right + 12, y + height / 2))
    axis.text(right + 1, y + height + 0.4, "GAP and sum\nalong the row", va="top", color=GREY)
    for x, name in ((right + 14, "g"), (right + 22, "h")):
        for row, index in enumerate(tile.classes):
            _cell(axis, x, y + row, 6, 1, _color(index))
        axis.text(x + 3, y - 0.4, name, ha="center")


def _draw_blocks_of_positions(axis: Axes, case: Case, launch: Launch) -> None:
    """Three programs of `position_blocks`: channels from left to right, positions downwards, cut into tiles."""
    positions, height = case.side**2, launch.constants["TILE_POSITIONS"]
    bottom = -(-positions // height) * height
    blocks = range(0, bottom, height)
    x = 0
    for tile in _around_larger_groups(case, launch):
        width = len(tile.channels)
        for column, channel in enumerate(tile.channels):
            _cell(axis, x + column, 0, 1, positions, _color_of_channel(case, channel))
        _cell(axis, x, positions, width, bottom - positions, EMPTY)
        for first in blocks:
            _outline(axis, x, first, width, height)
        label = "\n".join((tile.program, tile.classes_label, tile.channels_label))
        axis.text(x + width / 2, -2, label, ha="center", va="bottom", fontsize=7)
        x += width + 2
    for first in blocks:
        last = min(first + height, positions) - 1
        axis.text(-2, first + height / 2, f"positions\n{first}–{last}", **_RIGHT)
    slots = launch.constants["TILE_PLACES"] * launch.constants["TILE_CLASSES"]
    axis.text(
        0,
        bottom + 3,
        "Each column is one channel's map. Twice down the blocks,\n"
        f"in tiles of {height} × {slots} slots: the maximum and Σ exp of each column,\n"
        "then the maximum over a class's columns.",
        va="top",
        color=GREY,
    )


def _draw_slots(axis: Axes, left: float, case: Case, launch: Launch) -> None:
    """How the channels of one position stand in memory, above, and in a tile, below."""
    places, width, height = launch.constants["TILE_PLACES"], 7.0, 10.0
    above, below = 4.0, 48.0
    first_larger = case.groups.runs[0][0]
    classes = range(first_larger - 2, first_larger + 2)
    for order, index in enumerate(classes):
        x = left + width * places * order
        for place in range(places):
            if place >= case.groups.sizes[index]:
                _cell(axis, x + width * place, below, width, height, EMPTY)
                continue
            channel = case.groups.offsets[index] + place
            in_memory = left + width * (channel - case.groups.offsets[classes[0]])
            for cell, y in ((in_memory, above), (x + width * place, below)):
                _cell(axis, cell, y, width, height, _color(index))
                axis.text(cell + width / 2, y + height / 2, str(channel), fontsize=6.5, **_CENTRE)
            ends = in_memory + width / 2, x + width * (place + 0.5)
            axis.plot(ends, (above + height, below), color=GREY, linewidth=0.6)
        _outline(axis, x, below, width * places, height)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        axis.text(x + width * places / 2, below - 1, f"class {index}", ha="center", va="bottom", fontsize=7, bbox=box)
    access = launch.constants["ALIGNMENT"] * case.dtype.itemsize
    axis.text(left, above - 2, f"One position in memory: channels side by side,\nup to {access} bytes at a time")
    note = f"The same in the tile: {places} slots a class,\nso that CCMP is a maximum over {places} slots"
    axis.text(left, below + height + 3, note, va="top")


def draw_data_flow() -> Figure:
    """What the two kernels of a step read from memory and write to it."""
    case = real_cases()[FLOWING]
    maps, rows = case.batch * case.groups.num_channels, case.batch * case.groups.num_classes
    features, saved, results = _bytes(case.nbytes), _bytes(maps * (case.dtype.itemsize + 4)), _bytes(rows * 8)
    figure, (part,) = page(
        "Data flow: what a step reads and writes",
        f"{FLOWING}: {_times(case.shape)}, float32; the bytes follow from the shapes. Thick arrows carry |F|, the "
        "bytes of the features: three a step, the least possible.",
        [
            Patch(facecolor=MEMORY, label="memory of the GPU"),
            Patch(facecolor=OURS, label="our kernels, one launch each"),
            Patch(facecolor=THEIRS, label="operators of PyTorch"),
        ],
        {"": 2.9},
        [
            "Backward looks at the features twice, and so does forward of position_blocks; the second look is meant to "
            "be served by a cache. In 16 bits the maximum takes 2 bytes, the sum 4. Not drawn: the mask, N numbers, "
            "and the offsets of the groups, C + 1.",
            "Drawn by python -m bench drawings.",
        ],
    )
    axis = _canvas(part, (0, 100), (59, 0))
    _box(axis, 2, 1, 96, 9, MEMORY, f"features F, (B, N, P): {features}")
    _box(axis, 2, 23, 30, 14, OURS, "forward: softmax and M·F,\nCCMP, then GAP and the sum")
    _box(axis, 39, 25, 20, 10, THEIRS, "L_dis, L_div, the loss,\nand back to dg, dh")
    _box(axis, 66, 23, 32, 14, OURS, "backward: softmax again,\nwho won, then the gradient")
    _box(axis, 2, 49, 70, 9, MEMORY, f"maximum and 1/Σ exp of each map, 2 × (B, N): {saved}")
    _box(axis, 76, 49, 22, 9, MEMORY, f"gradient dF: {features}")
    _arrow(axis, (17, 10), (17, 23), 6, "read once: 1 |F|", (19, 16))
    _arrow(axis, (87, 10), (87, 23), 6, "read once: 1 |F|", (85, 16), ha="right")
    _arrow(axis, (91, 37), (91, 49), 6, "written once: 1 |F|", (89, 43), ha="right")
    _arrow(axis, (17, 37), (17, 49), 1, "written", (18.5, 43))
    _arrow(axis, (69, 49), (69, 37), 1, "read", (67.5, 43), ha="right")
    _arrow(axis, (32, 30), (39, 30), 1, f"g, h\n{results}", (35.5, 25.5), ha="center")
    _arrow(axis, (59, 30), (66, 30), 1, f"dg, dh\n{results}", (62.5, 25.5), ha="center")
    return figure


DRAWINGS: dict[str, Callable[[], Figure]] = {"tiles": draw_tiles, "data_flow": draw_data_flow}


def draw(name: str) -> Figure:
    """A drawing by its name."""
    with style():
        return DRAWINGS[name]()


def _canvas(part: SubFigure, x: tuple[float, float], y: tuple[float, float]) -> Axes:
    axis = part.subplots()
    axis.set_xlim(*x)
    axis.set_ylim(*y)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_axis_off()
    return axis


def _color(class_index: int) -> str:
    return CLASS_COLORS[class_index % len(CLASS_COLORS)]


def _color_of_channel(case: Case, channel: int) -> str:
    """The colour of the class that owns a channel."""
    return _color(sum(offset <= channel for offset in case.groups.offsets) - 1)


def _cell(axis: Axes, x: float, y: float, width: float, height: float, color: str) -> None:
    hatch = HATCH if color == EMPTY else None
    axis.add_patch(Rectangle((x, y), width, height, facecolor=color, edgecolor="white", linewidth=0.5, hatch=hatch))


def _map_row(axis: Axes, x: float, y: float, positions: int, width: int, color: str) -> None:
    """One map in a tile that is wider than it."""
    _cell(axis, x, y, positions, 1, color)
    _cell(axis, x + positions, y, width - positions, 1, EMPTY)


def _outline(axis: Axes, x: float, y: float, width: float, height: float) -> None:
    axis.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=PROGRAM, linewidth=1.1))


def _box(axis: Axes, x: float, y: float, width: float, height: float, color: str, text: str) -> None:
    axis.add_patch(Rectangle((x, y), width, height, facecolor=color, edgecolor=GREY, linewidth=0.8))
    axis.text(x + width / 2, y + height / 2, text, linespacing=1.4, **_CENTRE)


def _arrow(
    axis: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    width: float = 1.0,
    label: str = "",
    at: tuple[float, float] = (0, 0),
    ha: str = "left",
) -> None:
    shape = f"simple,head_length={4 + 1.5 * width},head_width={4 + 2 * width},tail_width={width}"
    axis.add_patch(
        FancyArrowPatch(start, end, arrowstyle=shape, mutation_scale=1, color=GREY, linewidth=0, shrinkA=0, shrinkB=0)
    )
    axis.text(*at, label, ha=ha, va="center", color=GREY)


def _times(shape: str) -> str:
    return shape.replace("x", "×")


def _bytes(number: float) -> str:
    return f"{number / 1e6:.1f} MB" if number >= 1e6 else f"{number / 1e3:.0f} kB"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m bench drawings`."""
    parser.add_argument(
        "--output", type=Path, default=Path("docs/figures"), help="folder of the drawings (default: docs/figures)"
    )


def main(arguments: argparse.Namespace) -> None:
    """Draw them."""
    for name in DRAWINGS:
        save(draw(name), arguments.output, name)
        print(f"{name}: {arguments.output / name}.svg and .png")
