"""What `launch.choose` promises to the kernels, for any groups, maps and strides."""

from itertools import pairwise
from math import prod
from time import perf_counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcl_triton.kernels.launch import LARGEST_WHOLE_MAP, Launch, Strides, choose

LARGEST_TILE = 1 << 20  # elements; Triton takes no more
LARGEST_GROUP = 5_000

small = st.integers(1, 20)
sizes_of_classes = st.one_of(
    st.lists(st.integers(1, 40), min_size=1, max_size=40),
    st.builds(lambda size, classes: [size] * classes, small | st.integers(1, 400), small | st.integers(1, 300)),
    st.builds(lambda size, few, many: [size] * few + [size + 1] * many, *[st.integers(1, 60)] * 3),  # as `split` gives
    st.lists(st.integers(1, LARGEST_GROUP), min_size=1, max_size=4),
)
some_stride = st.one_of(st.integers(0, 5_000), st.sampled_from([8, 16, 49, 196, 1 << 31, 3 << 40]))
itemsizes = st.sampled_from([2, 4, 8])


@st.composite
def strides_of_maps(draw) -> list[Strides]:
    """Of the features, and of their gradient or not; half of them with channels or positions side by side."""
    kind = draw(st.sampled_from(["rows", "channels last", "any"]))
    count = draw(st.integers(1, 2))
    return [
        Strides(
            draw(some_stride),
            1 if kind == "channels last" else draw(some_stride),
            1 if kind == "rows" else draw(some_stride),
        )
        for _ in range(count)
    ]


def runs_of(sizes: list[int]) -> tuple[int, ...]:
    """The form that `choose` takes: how many classes, how many channels each, ..."""
    runs: list[int] = []
    for size in sizes:
        if runs and runs[-1] == size:
            runs[-2] += 1
        else:
            runs += [1, size]
    return tuple(runs)


def tiles_of(launch: Launch, sizes: list[int]) -> list[list[int]]:
    """The sizes of each tile's classes."""
    return [sizes[first:end] for first, end in pairwise(launch.cuts)]


def is_power_of_two(number: int) -> bool:
    return number.bit_count() == 1


def any_case(test):
    positions = st.integers(1, 300) | st.integers(1, 20_000)
    given_case = given(sizes=sizes_of_classes, num_positions=positions, itemsize=itemsizes, strides=strides_of_maps())
    return settings(max_examples=400)(given_case(test))


@any_case
def test_tiles_are_the_classes_in_order(sizes, num_positions, itemsize, strides):
    launch = choose(runs_of(sizes), num_positions, itemsize, *strides)
    tiles = tiles_of(launch, sizes)
    assert launch.cuts[0] == 0
    assert launch.cuts[-1] == len(sizes)
    assert all(0 < len(tile) <= launch.constants["TILE_CLASSES"] for tile in tiles)
    if launch.kernels == "whole_maps":  # which works the cuts out by itself
        assert all(len(tile) == launch.constants["TILE_CLASSES"] for tile in tiles[:-1])


@any_case
@example(sizes=[5] * 70, num_positions=3, itemsize=2, strides=[Strides(1050, 1, 350)])
def test_whole_maps_hold_a_map(sizes, num_positions, itemsize, strides):
    launch = choose(runs_of(sizes), num_positions, itemsize, *strides)
    if launch.kernels == "whole_maps":
        assert num_positions <= LARGEST_WHOLE_MAP
        assert all(of_maps.position == 1 for of_maps in strides)
        assert launch.constants["NUM_POSITIONS"] == num_positions <= launch.constants["TILE_POSITIONS"]
    else:
        assert num_positions > LARGEST_WHOLE_MAP or any(of_maps.position != 1 for of_maps in strides)


@any_case
def test_position_blocks_hold_all_channels_of_a_tile(sizes, num_positions, itemsize, strides):
    launch = choose(runs_of(sizes), num_positions, itemsize, *strides)
    if launch.kernels == "whole_maps":
        return
    constants = launch.constants
    slots = constants["TILE_CLASSES"] * constants["TILE_PLACES"]
    for tile in tiles_of(launch, sizes):
        assert max(tile) <= constants["TILE_PLACES"]
        assert sum(tile) <= slots
        if not constants["IS_SPREAD"]:  # then each channel's number in the tile is its slot
            assert all(size == constants["TILE_PLACES"] for size in tile[:-1])
    assert constants["CHANNELS_LAST"] == all(of_maps.channel == 1 for of_maps in strides)


@any_case
@example(sizes=[3] * 3 + [5] * 7, num_positions=9, itemsize=2, strides=[Strides(44 * 9, 1, 44)])
@example(sizes=[10] * 6 + [11] * 4, num_positions=49, itemsize=2, strides=[Strides(104 * 49, 1, 104)])
def test_what_is_called_aligned_is(sizes, num_positions, itemsize, strides):
    launch = choose(runs_of(sizes), num_positions, itemsize, *strides)
    alignment = launch.constants["ALIGNMENT"]
    assert is_power_of_two(alignment)
    assert alignment * itemsize <= 16
    channels_last = launch.constants.get("CHANNELS_LAST", False)
    for of_maps in strides:
        assert of_maps.sample % alignment == 0
        assert (of_maps.position if channels_last else of_maps.channel) % alignment == 0
    if channels_last:
        assert all(sum(sizes[:cut]) % alignment == 0 for cut in launch.cuts)


@any_case
@example(sizes=[LARGEST_GROUP], num_positions=20_000, itemsize=8, strides=[Strides(1, 1, LARGEST_GROUP)] * 2)
def test_triton_can_compile_the_tiles(sizes, num_positions, itemsize, strides):
    constants = choose(runs_of(sizes), num_positions, itemsize, *strides).constants
    tile = [constants.get(name, 1) for name in ("TILE_CLASSES", "TILE_PLACES", "TILE_POSITIONS")]
    assert all(is_power_of_two(length) for length in tile)
    assert prod(tile) <= LARGEST_TILE
    assert constants["num_warps"] in (1, 2, 4, 8)
    if max(sizes) <= 4096:
        assert prod(tile) <= 512 * constants["num_warps"]  # 16 elements a thread


@any_case
def test_a_tile_of_channels_last_is_wide(sizes, num_positions, itemsize, strides):
    """It has room for 64 channels side by side, or for all classes."""
    constants = choose(runs_of(sizes), num_positions, itemsize, *strides).constants
    if constants.get("CHANNELS_LAST"):
        slots = constants["TILE_CLASSES"] * constants["TILE_PLACES"]
        assert slots >= 64 or constants["TILE_CLASSES"] >= len(sizes)


@pytest.mark.parametrize(
    ("sizes", "alignment"),
    [
        ([10] * 200, 8),  # 2000 channels
        ([3] * 200, 8),  # 600
        ([10] * 152 + [11] * 48, 4),  # 2048, but four classes of one size hold 40 or 44 channels
        ([2] * 88 + [3] * 112, 8),
        ([5] * 3, 1),
    ],
    ids=str,
)
def test_usual_groups_keep_wide_accesses_in_channels_last(sizes, alignment):
    channels = sum(sizes)
    launch = choose(runs_of(sizes), 196, 2, Strides(196 * channels, 1, channels))
    assert launch.constants["ALIGNMENT"] == alignment


def test_the_gradient_counts_too():
    """Where the features lie in rows and their gradient does not, or is aligned to less."""
    rows, columns, odd = Strides(960, 48, 1), Strides(960, 1, 20), Strides(980, 49, 1)
    runs = runs_of([4] * 5)
    assert choose(runs, 48, 2, rows).kernels == choose(runs, 48, 2, rows, odd).kernels == "whole_maps"
    assert choose(runs, 48, 2, rows, columns).kernels == "position_blocks"
    assert not choose(runs, 48, 2, rows, columns).constants["CHANNELS_LAST"]
    assert choose(runs, 48, 2, rows).constants["ALIGNMENT"] == 8
    assert choose(runs, 48, 2, rows, odd).constants["ALIGNMENT"] == 1


@pytest.mark.parametrize("sizes", [[3] * 100_000, [1, 2] * 50_000], ids=["uniform", "interleaved"])
@pytest.mark.parametrize(
    "strides", [Strides(1 << 20, 49, 1), Strides(1 << 25, 1, 1 << 19)], ids=["rows", "channels last"]
)
def test_many_classes_take_no_time(sizes, strides):
    """Once for a shape 0.2 s at most, then 0.02 s, measured; the bounds leave room for a busy machine."""
    runs = runs_of(sizes)
    choose.cache_clear()
    start = perf_counter()
    first = choose(runs, 49, 4, strides)
    middle = perf_counter()
    second = choose(runs, 49, 4, strides)
    end = perf_counter()
    assert first is second
    assert middle - start < 2
    assert end - middle < 0.2
