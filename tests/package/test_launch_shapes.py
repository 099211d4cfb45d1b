"""Promises of the launch rules to the kernels, for any groups, maps, batch and strides."""

from itertools import pairwise
from math import prod
from time import perf_counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcl_triton.kernels import launch
from mcl_triton.kernels.launch import (
    ENOUGH_WARPS,
    LARGEST_WHOLE_MAP,
    Launch,
    Strides,
    choose_backward,
    choose_for_statistics,
    choose_forward,
    pieces_of,
    place_bits,
    ways_to_cut,
)

LARGEST_TILE = 1 << 20  # elements; Triton takes no more
LARGEST_GROUP = 5_000
FITS_A_CACHE = 8 << 20  # bytes

small = st.integers(1, 20)
sizes_of_classes = st.one_of(
    st.lists(st.integers(1, 40), min_size=1, max_size=40),
    st.builds(lambda size, classes: [size] * classes, small | st.integers(1, 400), small | st.integers(1, 300)),
    st.builds(lambda size, few, many: [size] * few + [size + 1] * many, *[st.integers(1, 60)] * 3),  # as `split` gives
    st.lists(st.integers(1, LARGEST_GROUP), min_size=1, max_size=4),
    st.builds(lambda size, ones: [size] + [1] * ones, st.integers(1, LARGEST_GROUP), st.integers(0, 200)),
)
ROWS, COLUMNS, NEITHER = Strides(1 << 20, 196, 1), Strides(1 << 20, 1, 2048), Strides(1 << 20, 8, 4)


def runs_of(sizes: list[int]) -> tuple[int, ...]:
    """The form that the rules take: how many classes, how many channels each, ..."""
    runs: list[int] = []
    for size in sizes:
        if runs and runs[-1] == size:
            runs[-2] += 1
        else:
            runs += [1, size]
    return tuple(runs)


def work_of_programs(chosen: Launch, sizes: list[int]) -> list[int]:
    """Of the programs of one sample: the maps of a tile's rows that pass by one after the other."""
    rows = chosen.constants["ROWS"]
    if chosen.cut:
        pieces, bundles, _ = pieces_of(runs_of(sizes), chosen.cut)
        tiles = [-(-channels // rows) for channels in pieces[2::4]]
    else:
        tiles = [max(sizes[first : first + rows]) for first in range(0, len(sizes), rows)]
        step = chosen.constants.get("TILES_A_PROGRAM", 1)
        bundles = (*range(0, len(tiles), step), len(tiles))
    work = [sum(tiles[first:end]) for first, end in pairwise(bundles)]
    return work * chosen.constants.get("BLOCKS", 1)


def any_case(test):
    given_case = given(
        sizes=sizes_of_classes,
        batch=st.integers(1, 64),
        positions=st.sampled_from([1, 3, 49, 196, 784, 3136, 12544]) | st.integers(1, 20_000),
        itemsize=st.sampled_from([2, 4, 8]),
        strides=st.sampled_from([ROWS, COLUMNS, NEITHER]),
    )
    return settings(max_examples=300)(given_case(test))


@any_case
def test_each_channel_is_in_one_piece(sizes, batch, positions, itemsize, strides):
    """In order; the pieces of one class follow one another, and are numbered if there are several."""
    runs = runs_of(sizes)
    for cut in ways_to_cut(runs):
        pieces, bundles, splits = pieces_of(runs, cut)
        rows = [pieces[first : first + 4] for first in range(0, len(pieces), 4)]
        channels = [(number, channel) for number, first, count, _ in rows for channel in range(first, first + count)]
        classes = [number for number, size in enumerate(sizes) for _ in range(size)]
        assert channels == list(zip(classes, range(sum(sizes)), strict=True))
        assert max(count for _, _, count, _ in rows) <= cut.length
        assert (bundles[0], bundles[-1]) == (0, len(rows))
        assert all(first < end for first, end in pairwise(bundles))
        parts = [part for *_, part in rows if part >= 0]
        assert parts == list(range(len(parts)))
        split = {number: [part for of, _, _, part in rows if of == number] for number, *_, part in rows if part >= 0}
        expected = [number for of, own in split.items() for number in (of, own[0], len(own))]
        assert list(splits) == expected


@any_case
def test_a_tile_holds_a_map_or_a_block(sizes, batch, positions, itemsize, strides):
    chosen = choose_forward(runs_of(sizes), batch, positions, itemsize, strides)
    held = chosen.constants["LAYERS"] * chosen.constants["COLUMNS"]
    if chosen.kernels == "whole_maps":
        assert positions <= held
        assert positions <= LARGEST_WHOLE_MAP
    else:
        assert positions > LARGEST_WHOLE_MAP
        assert (chosen.constants["BLOCKS"] - 1) * held < positions <= chosen.constants["BLOCKS"] * held
    assert chosen.programs == len(work_of_programs(chosen, sizes))
    assert chosen.constants["COLUMN_AXIS"] == (strides.position == 1)


@any_case
@example(sizes=[LARGEST_GROUP], batch=1, positions=20_000, itemsize=8, strides=COLUMNS)
def test_triton_can_compile_the_tiles(sizes, batch, positions, itemsize, strides):
    runs = runs_of(sizes)
    for chosen in (
        choose_forward(runs, batch, positions, itemsize, strides),
        choose_backward(runs, batch, positions, itemsize, strides),
        choose_for_statistics(sum(sizes), batch, itemsize, strides),
    ):
        tile = [chosen.constants[name] for name in ("LAYERS", "COLUMNS", "ROWS")]
        warps = chosen.constants["num_warps"]
        assert all(length.bit_count() == 1 for length in tile)
        assert prod(tile) <= LARGEST_TILE
        assert warps in (1, 2, 4, 8, 16)
        assert prod(tile) <= 64 * 32 * warps  # elements of a thread, of which some lie outside of the map
    assert max(sizes) < 1 << place_bits(runs)


@pytest.mark.parametrize(("longest", "bits"), [(1, 4), (15, 4), (16, 8), (255, 8), (256, 15), (32767, 15), (32768, 31)])
def test_the_place_of_nobody_is_that_of_no_channel(longest, bits):
    """All bits are ones where nobody wins, so the last place must be another."""
    assert place_bits((1, longest)) == bits
    assert longest - 1 != (1 << bits) - 1


@any_case
def test_no_program_has_more_than_twice_the_mean_work(sizes, batch, positions, itemsize, strides):
    """Where there is enough of it to be shared; a larger map than 1024 positions takes one channel a step."""
    chosen = choose_forward(runs_of(sizes), batch, min(positions, 1024), itemsize, strides)
    if batch * sum(sizes) * min(positions, 1024) * itemsize >= 1 << 20:
        work = work_of_programs(chosen, sizes)
        assert max(work) <= 2 * sum(work) / len(work) + 1


@settings(max_examples=500)
@given(
    sizes=sizes_of_classes,
    batch=st.sampled_from([1, 2, 4, 16]),
    positions=st.integers(1, 150).map(lambda side: side * side) | st.integers(1, 20_000),
    itemsize=st.sampled_from([2, 4, 8]),
    strides=st.sampled_from([ROWS, COLUMNS, NEITHER]),
)
@example(sizes=[160] * 2, batch=1, positions=1024, itemsize=4, strides=ROWS)
@example(sizes=[25] + [1] * 199, batch=1, positions=2304, itemsize=4, strides=ROWS)
@example(sizes=[783] + [1] * 34, batch=1, positions=4225, itemsize=2, strides=ROWS)
def test_a_gpu_is_at_work(sizes, batch, positions, itemsize, strides):
    """With 528 warps each way, not counted those that the longest program leaves idle by more than half.

    Few small groups have fewer: 16 warps per map, or per 8 channels of a class; or a thread per class and position.
    """
    nbytes = batch * sum(sizes) * positions * itemsize
    if nbytes < 1 << 20:
        return
    runs = runs_of(sizes)
    forward = choose_forward(runs, batch, positions, itemsize, strides)
    work = work_of_programs(forward, sizes)
    warps = forward.constants["num_warps"]
    if batch * min(len(work), 2 * sum(work) / max(work)) * warps < ENOUGH_WARPS:
        if forward.cut:
            assert warps == 16
            assert forward.cut.length <= 8
        else:
            assert forward.kernels == "position_blocks"
            assert prod(forward.constants[name] for name in ("LAYERS", "COLUMNS", "ROWS")) <= 32 * warps
    launches = [choose_backward(runs, batch, positions, itemsize, strides)]
    if positions > LARGEST_WHOLE_MAP:
        launches.append(choose_for_statistics(sum(sizes), batch, itemsize, strides))
    for chosen in launches:
        warps = chosen.constants["num_warps"]
        assert batch * chosen.programs * warps >= ENOUGH_WARPS or (warps, chosen.constants["ROWS"]) == (16, 1)
    if forward.cut:
        assert bytes_of_parts(forward, runs, batch, positions) <= max(0.3 * nbytes, FITS_A_CACHE)


def bytes_of_parts(chosen: Launch, runs: tuple[int, ...], batch: int, positions: int) -> int:
    """Two maxima and the winners of each part and position, written and read again."""
    return 2 * (8 + 4) * batch * pieces_of(runs, chosen.cut).num_parts * positions


CLIFFS = {
    "7 of 340, 7x7": ([340] * 7, 8, 49),
    "7 of 340, 14x14": ([340] * 7, 8, 196),
    "1 of 2048, 7x7": ([2048], 16, 49),
    "1 of 2048, 14x14": ([2048], 16, 196),
    "2000 beside ones, 7x7": ([2000] + [1] * 48, 16, 49),
    "2000 beside ones, 14x14": ([2000] + [1] * 48, 16, 196),
    "10 of 6, 112x112, 2": ([6] * 10, 2, 12544),
    "8 of 8, 112x112, 2": ([8] * 8, 2, 12544),
    "10 of 6, 112x112, 16": ([6] * 10, 16, 12544),
    "8 of 8, 112x112, 16": ([8] * 8, 16, 12544),
    "2 of 160, 32x32, 1": ([160] * 2, 1, 1024),
    "5 of 200, 65x65, 1": ([200] * 5, 1, 4225),
    "100,000 of 1": ([1] * 100_000, 2, 49),
    "ResNet50, batch 1": ([10] * 152 + [11] * 48, 1, 196),
}


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("strides", [ROWS, COLUMNS], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("case", CLIFFS)
def test_cliffs(case, strides, itemsize):
    """Groups and maps that would leave most of a GPU idle, if each class were a program's."""
    sizes, batch, positions = CLIFFS[case]
    runs = runs_of(sizes)
    forward = choose_forward(runs, batch, positions, itemsize, strides)
    work = work_of_programs(forward, sizes)
    assert max(work) <= 2 * sum(work) / len(work)
    launches = [forward, choose_backward(runs, batch, positions, itemsize, strides)]
    if positions > LARGEST_WHOLE_MAP:
        launches.append(choose_for_statistics(sum(sizes), batch, itemsize, strides))
    for chosen in launches:
        if batch * sum(sizes) * positions * itemsize >= 1 << 20:
            assert batch * chosen.programs * chosen.constants["num_warps"] >= ENOUGH_WARPS, chosen
    if forward.cut:
        nbytes = batch * sum(sizes) * positions * itemsize
        assert bytes_of_parts(forward, runs, batch, positions) <= max(0.3 * nbytes, FITS_A_CACHE)


def test_real_groups_are_not_split():
    """One launch each way, for the networks and data sets that people use."""
    for channels in (512, 2048):
        for classes in (100, 102, 196, 200):
            size, larger = divmod(channels, classes)
            runs = (classes - larger, size, larger, size + 1)
            for positions in (49, 196, 784):
                for strides in (ROWS, COLUMNS):
                    assert choose_forward(runs, 16, positions, 4, strides).cut is None


@pytest.mark.parametrize("sizes", [[3] * 100_000, [1, 2] * 50_000], ids=["uniform", "interleaved"])
@pytest.mark.parametrize("strides", [ROWS, COLUMNS], ids=["rows", "channels last"])
def test_many_classes_take_no_time(sizes, strides):
    """Once for a shape 0.2 s at most, then 0.02 s, measured; the bounds leave room for a busy machine."""
    runs = runs_of(sizes)
    launch.choose_forward.cache_clear()
    start = perf_counter()
    first = choose_forward(runs, 2, 49, 4, strides)
    middle = perf_counter()
    second = choose_forward(runs, 2, 49, 4, strides)
    end = perf_counter()
    assert first is second
    assert middle - start < 2
    assert end - middle < 0.2
