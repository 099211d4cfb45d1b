"""How a launch is shaped: from groups, map and memory layout to tile sizes and warps. No timing, and no Triton.

The rules keep registers from spilling, accesses wide, and enough loads in flight. `python -m bench static --kernels`
compiles what they choose and prints the outcome.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import accumulate, chain, repeat
from math import gcd
from typing import NamedTuple

WIDEST_ACCESS = 16  # bytes that a thread loads or stores at once
LARGEST_WHOLE_MAP = 4096  # positions; a larger map does not fit the registers of a program


class Strides(NamedTuple):
    """Elements from one sample, channel or position of maps (B, N, P) to the next."""

    sample: int
    channel: int
    position: int


class Launch(NamedTuple):
    """How the kernels are launched.

    Attributes:
        kernels: ``"whole_maps"`` or ``"position_blocks"``.
        constants: the kernels' constexpr arguments that follow from the shape, and ``num_warps``.
        cuts: first class of each tile of a sample, and C. One program works on one tile of one sample.
        way: which of `ways_to_cut` the cuts are, for the kernels that read them from a table.
    """

    kernels: str
    constants: dict[str, int]
    cuts: tuple[int, ...]
    way: int = 0


@lru_cache(maxsize=256)
def choose(runs: tuple[int, ...], num_positions: int, itemsize: int, *strides: Strides) -> Launch:
    """The launch for these groups and maps.

    Args:
        runs: how many classes, how many channels each, how many classes, ...
        num_positions: P.
        itemsize: bytes of an element.
        strides: of all maps that the kernel reads or writes: the features, and in backward their gradient.
    """
    if num_positions <= LARGEST_WHOLE_MAP and all(of_maps.position == 1 for of_maps in strides):
        return _whole_maps(runs, num_positions, itemsize, strides)
    return _position_blocks(runs, num_positions, itemsize, strides)


def _whole_maps(runs: tuple[int, ...], num_positions: int, itemsize: int, strides: tuple[Strides, ...]) -> Launch:
    num_classes = sum(runs[::2])
    tile_positions = power_of_two(num_positions)
    # 256 elements are 8 for each thread of a warp: one or two wide loads a channel, and a softmax without a barrier.
    # Small maps share the warp; large ones take more warps, and at 56×56 16 elements a thread.
    tile_classes = min(max(1, 256 // tile_positions), power_of_two(num_classes))
    num_warps = max(1, min(8, tile_positions // 256))
    constants = {
        "NUM_POSITIONS": num_positions,
        "ALIGNMENT": _common_alignment(itemsize, (stride for of in strides for stride in (of.sample, of.channel))),
        "TILE_CLASSES": tile_classes,
        "TILE_POSITIONS": tile_positions,
        # The row of one warp is too little to have in flight; those of several warps are enough.
        "CHANNELS_A_STEP": _channels_a_step(runs) if num_warps == 1 else 1,
        "num_warps": num_warps,
    }
    return Launch("whole_maps", constants, (*range(0, num_classes, tile_classes), num_classes))


def _position_blocks(runs: tuple[int, ...], num_positions: int, itemsize: int, strides: tuple[Strides, ...]) -> Launch:
    sizes = set(runs[1::2])
    channels_last = all(of_maps.channel == 1 for of_maps in strides)
    tile_places = power_of_two(max(sizes))
    tile_classes = _classes_side_by_side(runs) if channels_last else 1
    slots = tile_classes * tile_places
    # Four warps with 16 elements a thread, or 8 where 16 would spill; more only where a single position takes more.
    elements = 2048 if channels_last and slots <= 64 else 1024
    tile_positions = min(max(1, elements // slots), power_of_two(num_positions))
    elements = tile_positions * slots
    if channels_last:
        alignment = _common_alignment(itemsize, (stride for of in strides for stride in (of.sample, of.position)))
        while not ways_to_cut(runs)[_way(alignment)]:
            alignment //= 2
        way = _way(alignment)
    else:
        alignment = _common_alignment(itemsize, (stride for of in strides for stride in (of.sample, of.channel)))
        way = 0
    constants = {
        "ALIGNMENT": alignment,
        "CHANNELS_LAST": channels_last,
        "TILE_POSITIONS": tile_positions,
        "TILE_CLASSES": tile_classes,
        "TILE_PLACES": tile_places,
        "IS_SPREAD": tile_classes > 1 and sizes != {tile_places},
        "num_warps": max(1, min(4, elements // 256), min(8, elements // 512)),
    }
    return Launch("position_blocks", constants, ways_to_cut(runs)[way], way)


@lru_cache(maxsize=256)
def ways_to_cut(runs: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """First class of each tile, and C, in every way that some layout of the maps asks for.

    First one class a tile; then classes side by side, in tiles that begin at multiples of 1, 2, 4 and 8 channels, empty
    where the groups do not allow that.
    """
    one_by_one = tuple(range(sum(runs[::2]) + 1))
    return one_by_one, *(_cut(runs, _classes_side_by_side(runs), alignment) for alignment in (1, 2, 4, 8))


def _way(alignment: int) -> int:
    """Which of `ways_to_cut` begins its tiles at multiples of 1, 2, 4 or 8 channels."""
    return alignment.bit_length()


def _classes_side_by_side(runs: tuple[int, ...]) -> int:
    """How many classes a tile has in channels_last."""
    # 64 channels side by side fill the sectors of memory that they touch, and four classes of any one size end at a
    # multiple of four channels. Spreading takes a shuffle for every 32 channels of a tile, and larger groups are wide
    # enough by themselves.
    tile_places = power_of_two(max(runs[1::2]))
    tile_classes = max(4, 64 // tile_places) if tile_places < 64 else 1
    return min(tile_classes, power_of_two(sum(runs[::2])))


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


def channel_offsets(runs: tuple[int, ...]) -> tuple[int, ...]:
    """First channel of each class, and N: C + 1 numbers."""
    sizes = chain.from_iterable(repeat(size, classes) for classes, size in zip(runs[::2], runs[1::2], strict=True))
    return tuple(accumulate(sizes, initial=0))


def power_of_two(number: int) -> int:
    """The smallest power of two that is not less than a number."""
    return 1 << (number - 1).bit_length()


def _channels_a_step(runs: tuple[int, ...]) -> int:
    """How many channels are loaded together: up to 3, if the places left empty at the end are a fifth at most.

    A fourth would take registers that AMD's compiler has to spill.
    """

    def places(step: int) -> int:
        return sum(classes * (size + -size % step) for classes, size in zip(runs[::2], runs[1::2], strict=True))

    return max(step for step in (1, 2, 3) if 5 * places(step) <= 6 * places(1))


def _common_alignment(itemsize: int, strides: Iterable[int]) -> int:
    """The largest number of elements, up to the widest access, that divides all strides."""
    return gcd(WIDEST_ACCESS // itemsize, *strides)


def _cut(runs: tuple[int, ...], tile_classes: int, alignment: int) -> tuple[int, ...]:
    """Tiles of up to so many classes, each of which begins at an aligned channel; empty if some class is in the way."""
    offsets = channel_offsets(runs)
    cuts = [0]
    while cuts[-1] < len(offsets) - 1:
        furthest = min(cuts[-1] + tile_classes, len(offsets) - 1)
        cut = next((cut for cut in range(furthest, cuts[-1], -1) if offsets[cut] % alignment == 0), None)
        if cut is None:
            return ()
        cuts.append(cut)
    return tuple(cuts)
