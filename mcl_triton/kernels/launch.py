"""How a launch is shaped: from groups, map, batch and memory layout to tile sizes and warps. No timing, no Triton.

The rules keep registers from spilling, accesses wide, enough loads in flight, and all of a GPU at work. `python -m
bench static --kernels` compiles what they choose and prints registers and widths. The axes of a tile: see `arithmetic`.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate, chain, pairwise, repeat
from typing import NamedTuple

LARGEST_WHOLE_MAP = 4096  # positions; a larger map does not fit the registers of a program
ENOUGH_WARPS = 528  # 4 for each of 132 streaming multiprocessors
ENOUGH_PROGRAMS = 64 * 132  # more of them are better merged: each begins with some hundred instructions
WORTH_SPLITTING = 1 << 20  # bytes of features; fewer are done before a further launch has begun
USUAL_PIECE = 64  # channels; the parts of a class cost 12 bytes per position each, to write and to read
SHORTEST_PIECE = 8  # where most of a GPU would be idle otherwise; all parts then fit its cache
MOST_WARPS = 16  # of a program
LARGEST_SIDE_BY_SIDE = 32  # channels of a class, where threads next to each other read different classes


class Tile(NamedTuple):
    """Sizes of a tile, and how many warps share it."""

    layers: int
    columns: int
    rows: int
    warps: int

    @property
    def positions(self) -> int:
        """That fit the tile."""
        return self.layers * self.columns


# By the positions of a map, up to: the tile. Layers beyond the map cost nothing.
_ROWS_OF_CLASSES = {  # forward, where the positions of a map lie side by side
    1: Tile(1, 1, 32, 1),
    8: Tile(1, 8, 8, 1),
    64: Tile(8, 8, 4, 1),  # 8 threads a map: the softmax takes 3 shuffles for 8 elements, and no barrier
    256: Tile(4, 64, 2, 1),  # 16 threads a map, each with up to 16 elements, so that what a map costs is shared by more
    1024: Tile(8, 128, 1, 1),  # one warp still: no barrier
    4096: Tile(8, 512, 1, 4),
}
_COLUMNS_OF_CLASSES = {  # forward, where the channels lie side by side
    64: Tile(8, 8, 16, 4),  # threads next to each other are classes next to each other, whose sectors of memory touch
    256: Tile(16, 16, 8, 4),
    1024: Tile(16, 64, 4, 8),
    4096: Tile(16, 256, 2, 8),
}
_ROWS_OF_CHANNELS = {  # forward in pieces: as above, and several warps, since there are few programs
    1: Tile(1, 1, 128, 4),
    8: Tile(1, 8, 32, 4),
    64: Tile(8, 8, 16, 4),
    256: Tile(4, 64, 8, 4),
    1024: Tile(8, 128, 4, 4),
    4096: Tile(8, 512, 1, 4),
}
_COLUMNS_OF_CHANNELS = {
    64: Tile(8, 8, 32, 4),
    256: Tile(16, 16, 16, 8),
    1024: Tile(16, 64, 8, 16),
    4096: Tile(16, 256, 2, 8),
}
_GRADIENT_ROWS = {  # backward, which keeps less per element
    1: Tile(1, 1, 128, 4),
    8: Tile(1, 8, 32, 1),
    64: Tile(8, 8, 8, 1),
    256: Tile(8, 32, 4, 1),
    1024: Tile(8, 128, 1, 1),
    4096: Tile(8, 512, 1, 4),
}
_GRADIENT_COLUMNS = {  # wide rows of memory: 64 bytes of 16-bit channels
    64: Tile(8, 8, 64, 4),
    256: Tile(8, 32, 32, 4),
    1 << 31: Tile(2, 16, 64, 4),  # blocks of larger maps
}
_BLOCK_OF_ROWS = Tile(8, 128, 1, 4)  # of larger maps
_BLOCK_OF_COLUMNS = Tile(8, 16, 8, 4)
_STATISTICS_ROWS = Tile(8, 256, 1, 8)
_STATISTICS_COLUMNS = Tile(8, 32, 32, 16)


class Strides(NamedTuple):
    """Elements from one sample, channel or position of maps (B, N, P) to the next."""

    sample: int
    channel: int
    position: int


class Cut(NamedTuple):
    """How groups are cut into pieces.

    Attributes:
        length: channels of the longest piece.
        width: channels that a tile has side by side, 8 or 32: what the shortest piece costs.
    """

    length: int
    width: int


class Launch(NamedTuple):
    """How a kernel is launched.

    Attributes:
        kernels: ``"whole_maps"``, ``"position_blocks"`` or ``"gradient"``.
        constants: the kernel's constexpr arguments that follow from the shape, and ``num_warps``.
        programs: for each sample.
        cut: how the groups are cut into pieces, of `ways_to_cut`; None where the rows of tiles are whole classes.
    """

    kernels: str
    constants: dict[str, int]
    programs: int
    cut: Cut | None = None


@lru_cache(maxsize=256)
def choose_forward(runs: tuple[int, ...], batch: int, num_positions: int, itemsize: int, strides: Strides) -> Launch:
    """The launch for these groups and maps.

    Args:
        runs: how many classes, how many channels each, how many classes, ...
        batch: B.
        num_positions: P.
        itemsize: bytes of an element.
        strides: of the features.
    """
    sizes, num_classes = runs[1::2], sum(runs[::2])
    in_rows = strides.position == 1
    nbytes = batch * num_positions * itemsize * channel_offsets(runs)[-1]
    enough = ENOUGH_WARPS if nbytes >= WORTH_SPLITTING else 0
    if num_positions > LARGEST_WHOLE_MAP:
        tile = _fitted(_BLOCK_OF_ROWS if in_rows else _BLOCK_OF_COLUMNS, num_classes, itemsize)
        steps = _steps(runs, tile.rows)
        warps = batch * _at_work(steps) * tile.warps  # of a block
        while (
            warps * -(-num_positions // tile.positions) < enough
            and tile.positions * tile.rows > 32 * tile.warps
            and tile.layers > 1
        ):
            tile = tile._replace(layers=tile.layers // 2)
        constants = {**_constants(tile, in_rows, runs), "BLOCKS": -(-num_positions // tile.positions)}
        return Launch("position_blocks", constants, len(steps) * constants["BLOCKS"])
    tile = _fitted(_least(_ROWS_OF_CLASSES if in_rows else _COLUMNS_OF_CLASSES, num_positions), num_classes, itemsize)
    while tile.rows > 1 and batch * -(-num_classes // tile.rows) * tile.warps < enough:
        tile = tile._replace(rows=tile.rows // 2)
    tiles = -(-num_classes // tile.rows)
    is_uneven = _at_work(_steps(runs, tile.rows)) < tiles
    is_idle = batch * tiles * tile.warps < enough
    if not (is_uneven or is_idle or (not in_rows and max(sizes) > LARGEST_SIDE_BY_SIDE)):
        tiles_a_program = max(1, batch * tiles // ENOUGH_PROGRAMS)
        constants = {**_constants(tile, in_rows, runs), "TILES_A_PROGRAM": tiles_a_program, "IN_PIECES": False}
        return Launch("whole_maps", constants, -(-tiles // tiles_a_program))
    return _choose_pieces(runs, batch, num_positions, itemsize, in_rows, enough)


def _choose_pieces(
    runs: tuple[int, ...], batch: int, num_positions: int, itemsize: int, in_rows: bool, enough: int
) -> Launch:
    """Long pieces for twice as many warps as are enough; else pieces of usual length, more warps, shorter pieces."""
    longest = max(runs[1::2])
    tile = _fitted(_least(_ROWS_OF_CHANNELS if in_rows else _COLUMNS_OF_CHANNELS, num_positions), longest, itemsize)
    cuts = [cut for cut in ways_to_cut(runs) if cut.width == (32 if tile.rows >= 32 else 8)]
    cuts = [cut for cut in cuts if enough or cut.length == longest]

    def warps(cut: Cut) -> float:
        return batch * _at_work(_steps_of_bundles(pieces_of(runs, cut), tile.rows)) * tile.warps

    usual = [cut for cut in cuts if cut.length >= min(USUAL_PIECE, longest)]
    cut = max((cut for cut in usual if warps(cut) >= 2 * enough), default=min(usual))
    while warps(cut) < enough and tile.warps < MOST_WARPS:
        tile = tile._replace(warps=2 * tile.warps)
        while tile.warps == MOST_WARPS and tile.rows > 1 and tile.positions * tile.rows * max(itemsize, 4) > 1 << 14:
            tile = tile._replace(rows=tile.rows // 2)  # a thread has 128 registers then
    if warps(cut) < enough:
        cut = max((cut for cut in cuts if warps(cut) >= enough), default=min(cuts))
    tile = tile._replace(rows=min(tile.rows, power_of_two(cut.length)))
    constants = {**_constants(tile, in_rows, runs), "TILES_A_PROGRAM": 1, "IN_PIECES": True}
    return Launch("whole_maps", constants, len(pieces_of(runs, cut).bundles) - 1, cut)


@lru_cache(maxsize=256)
def choose_backward(runs: tuple[int, ...], batch: int, num_positions: int, itemsize: int, strides: Strides) -> Launch:
    """The launch of the gradient; arguments as in `choose_forward`."""
    in_rows, num_channels = strides.position == 1, channel_offsets(runs)[-1]
    tile = _fitted(_least(_GRADIENT_ROWS if in_rows else _GRADIENT_COLUMNS, num_positions), num_channels, itemsize)
    if batch * num_positions * itemsize * num_channels >= WORTH_SPLITTING:
        tile = _busy(tile, batch, num_channels, num_positions)
    return Launch("gradient", _constants(tile, in_rows, runs), -(-num_channels // tile.rows))


class Pieces(NamedTuple):
    """Groups cut into pieces of similar length, for programs of similar length.

    Attributes:
        pieces: class, first channel, channels, and number among the parts of split classes or -1, one after the other.
        bundles: first piece of each program, and the number of pieces.
        splits: of each split class: the class, its first part, its parts.
    """

    pieces: tuple[int, ...]
    bundles: tuple[int, ...]
    splits: tuple[int, ...]

    @property
    def num_parts(self) -> int:
        """How many pieces are part of a class."""
        return sum(self.splits[2::3])


def ways_to_cut(runs: tuple[int, ...]) -> list[Cut]:
    """Values that `pieces_of` accepts: whole classes, and powers of two below the largest, short ones if few others."""
    longest = max(runs[1::2])
    usual = pieces_of(runs, Cut(min(USUAL_PIECE, longest), 8))
    are_few = _at_work(_steps_of_bundles(usual, 1)) * MOST_WARPS < ENOUGH_WARPS
    shortest = SHORTEST_PIECE if are_few else USUAL_PIECE
    lengths = [longest, *(1 << n for n in range(shortest.bit_length() - 1, (longest - 1).bit_length()))]
    return [Cut(length, width) for length in lengths for width in (8, 32)]


@lru_cache(maxsize=256)
def pieces_of(runs: tuple[int, ...], cut: Cut) -> Pieces:
    """Classes of more channels cut into equal pieces of at most this length, and small ones bundled up to it."""
    pieces: list[int] = []
    splits: list[int] = []
    bundles = [0]
    parts, load = 0, 0
    offsets = channel_offsets(runs)
    for number, (first, end) in enumerate(pairwise(offsets)):
        count = -(-(end - first) // cut.length)
        if count > 1:
            splits += [number, parts, count]
        for index in range(count):
            begin, stop = (first + (end - first) * at // count for at in (index, index + 1))
            cost = max(stop - begin, cut.width)
            if load and load + cost > cut.length:
                bundles.append(len(pieces) // 4)
                load = 0
            load += cost
            pieces += [number, begin, stop - begin, parts + index if count > 1 else -1]
        parts += count if count > 1 else 0
    return Pieces(tuple(pieces), (*bundles, len(pieces) // 4), tuple(splits))


def choose_to_combine(num_positions: int, most_parts: int, itemsize: int) -> dict[str, int]:
    """The constexpr arguments of `combine_kernel`, and ``num_warps``, given the parts of the class that has most."""
    parts = min(32, power_of_two(most_parts))
    # As many as registers hold, since each step waits for memory.
    positions = min((2048 if itemsize == 8 else 8192) // parts, power_of_two(num_positions))
    return {
        "TILE_PARTS": parts,
        "TILE_POSITIONS": positions,
        "num_warps": max(1, min(MOST_WARPS, parts * positions // 256)),
    }


def choose_to_sum(num_results: int) -> dict[str, int]:
    """The constexpr arguments of `sum_kernel`, and ``num_warps``."""
    return {"TILE_BLOCKS": 32, "TILE_RESULTS": min(32, power_of_two(num_results)), "num_warps": 4}


def choose_for_statistics(num_channels: int, batch: int, itemsize: int, strides: Strides) -> Launch:
    """The launch of the statistics of large maps."""
    in_rows = strides.position == 1
    tile = _fitted(_STATISTICS_ROWS if in_rows else _STATISTICS_COLUMNS, num_channels, itemsize)
    tile = _busy(tile, batch, num_channels, LARGEST_WHOLE_MAP)
    return Launch("position_blocks", _sizes(tile, in_rows), -(-num_channels // tile.rows))


def choose_for_mask(longest: int) -> dict[str, int]:
    """The constexpr arguments of the mask's kernel, and ``num_warps``, given the channels of the largest class."""
    tile_places = power_of_two(longest)
    # 256 channels are 8 for each thread of a warp.
    tile_classes = max(1, 256 // tile_places)
    return {
        "TILE_CLASSES": tile_classes,
        "TILE_PLACES": tile_places,
        "num_warps": max(1, min(8, tile_places // 256)),
    }


def choose_for_head(num_classes: int) -> dict[str, int]:
    """The constexpr arguments of the loss head's kernel, and ``num_warps``."""
    tile_classes = min(1024, power_of_two(num_classes))
    return {
        "TILE_CLASSES": tile_classes,
        "TILE_SAMPLES": 512,  # and as many programs at most, so that one of them can add what all have found
        "num_warps": max(1, min(4, tile_classes // 256)),
    }


def place_bits(runs: tuple[int, ...]) -> int:
    """How many bits hold the place of a channel within its class, or all ones for none; two fit 1, 2, 4 or 8 bytes."""
    longest = max(runs[1::2])
    return next(bits for bits in (4, 8, 15, 31) if longest < 1 << bits)


@lru_cache(maxsize=256)
def channel_offsets(runs: tuple[int, ...]) -> tuple[int, ...]:
    """First channel of each class, and N: C + 1 numbers."""
    sizes = chain.from_iterable(repeat(size, classes) for classes, size in zip(runs[::2], runs[1::2], strict=True))
    return tuple(accumulate(sizes, initial=0))


def power_of_two(number: int) -> int:
    """The smallest power of two that is not less than a number."""
    return 1 << (number - 1).bit_length()


def _least(tiles: dict[int, Tile], num_positions: int) -> Tile:
    """The tile for maps of this size; the largest where none fits, for a loop over blocks."""
    return next((tile for limit, tile in tiles.items() if num_positions <= limit), [*tiles.values()][-1])


def _busy(tile: Tile, batch: int, rows: int, num_positions: int) -> Tile:
    """With more warps and fewer rows, until a GPU is busy; with blocks of more positions, where maps have several."""
    while batch * -(-rows // tile.rows) * tile.warps < ENOUGH_WARPS and (tile.warps < MOST_WARPS or tile.rows > 1):
        more_warps = tile.warps < MOST_WARPS
        tile = tile._replace(warps=2 * tile.warps) if more_warps else tile._replace(rows=tile.rows // 2)
        if tile.positions * tile.rows < 256 * tile.warps and tile.positions < num_positions:
            tile = tile._replace(columns=2 * tile.columns)
    return tile


def _fitted(tile: Tile, rows: int, itemsize: int) -> Tile:
    """With as many rows as there are, and for float64 twice as many threads per element."""
    tile = tile._replace(rows=min(tile.rows, power_of_two(rows)))
    if itemsize == 8 and tile.layers > 1:
        tile = tile._replace(layers=tile.layers // 2, columns=tile.columns * 2, warps=min(MOST_WARPS, tile.warps * 2))
    return tile


def _sizes(tile: Tile, in_rows: bool) -> dict[str, int]:
    return {
        "LAYERS": tile.layers,
        "COLUMNS": tile.columns,
        "ROWS": tile.rows,
        "COLUMN_AXIS": int(in_rows),
        "num_warps": tile.warps,
    }


def _constants(tile: Tile, in_rows: bool, runs: tuple[int, ...]) -> dict[str, int]:
    return {**_sizes(tile, in_rows), "PLACE_BITS": place_bits(runs)}


def _steps(runs: tuple[int, ...], rows: int) -> list[int]:
    """Channels of the largest class of each tile of so many classes."""
    sizes = [end - first for first, end in pairwise(channel_offsets(runs))]
    return [max(sizes[first : first + rows]) for first in range(0, len(sizes), rows)]


def _steps_of_bundles(pieces: Pieces, rows: int) -> list[int]:
    """How often each program takes so many channels."""
    steps = [-(-channels // rows) for channels in pieces.pieces[2::4]]
    return [sum(steps[first:end]) for first, end in pairwise(pieces.bundles)]


def _at_work(steps: list[int]) -> float:
    """How many programs are at work: all of them, unless the longest takes more than twice their mean."""
    return min(len(steps), 2 * sum(steps) / max(steps))
