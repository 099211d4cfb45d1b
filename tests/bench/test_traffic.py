"""Memory traffic of the kernels, counted in Triton's interpreter: the bytes, their places, and how they grow."""

from unittest.mock import patch

import pytest
import torch
import triton
import triton.language as tl
from checks import lay_out, make_features, make_mask

from bench.cases import Case, real_cases
from bench.count.traffic import (
    GROUPS,
    LARGER,
    Size,
    amounts,
    bytes_of_batch,
    fewer_classes,
    record_step,
    record_traffic,
)
from mcl_triton import ChannelGroups
from mcl_triton.kernels import whole_maps

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="counted in the interpreter, on machines without GPU")

LAYOUTS = ["contiguous", "channels_last"]
DTYPES = [torch.float32, torch.bfloat16]
SMALL, FROM_SCRATCH, RESNET50 = GROUPS
SPLIT = ChannelGroups([2, 2, 2, 3, 3])  # as 512 channels are split among 200 classes
UNIFORM = ChannelGroups.uniform(8, 3)
LONG = ChannelGroups([10, 10, 10, 11])  # as 2048 are
SHAPES = {
    "split 7×7": (SPLIT, 7),
    "uniform 14×14": (UNIFORM, 14),
    "long 14×14": (LONG, 14),
    "uniform 28×28": (UNIFORM, 28),
}


def name(value):
    return str(value).removeprefix("torch.")


def features_of(groups, side, dtype=torch.float32, layout="contiguous", batch=2):
    return lay_out(make_features("relu", (batch, groups.num_channels, side, side), dtype), layout)


def in_sectors(size):
    """Bytes of the sectors that so many bytes fill, from the start of one."""
    return -(-size // 32) * 32


@pytest.mark.parametrize("mask_kind", ["none", "shared", "per sample"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_feature_is_read_once_and_every_gradient_written_once(shape, dtype, layout, mask_kind):
    features = features_of(*SHAPES[shape], dtype, layout)
    assert features.data_ptr() % 32 == 0
    batch, channels = features.shape[:2]
    step = record_step(features, SHAPES[shape][0], make_mask(mask_kind, batch, channels))
    assert step.forward.launches == step.backward.launches == 1
    # Memory delivers each feature once; a second look at it, at large maps in channels_last, goes to a cache.
    looks = 2 if layout == "channels_last" and features.shape[2] > 16 else 1
    assert step.forward.read(features).sectors == step.backward.read(features).sectors == in_sectors(features.nbytes)
    assert step.forward.read(features).requested == features.nbytes
    assert step.backward.read(features).requested == looks * features.nbytes
    assert step.backward.written(step.grad).requested == features.nbytes
    assert step.backward.written(step.grad).sectors == in_sectors(features.nbytes)
    # Nothing else is written than dF, and in forward the results.
    assert step.backward.written() == step.backward.written(step.grad)
    assert step.forward.written().requested == step.temporaries
    assert step.forward.written(features).requested == step.backward.written(features).requested == 0
    assert step.backward.read(step.grad).requested == 0
    # What else is read are at most 10 numbers per channel: groups, mask, statistics, gradients of g and h; and the
    # winners of its class, one byte per position and look.
    rest = step.forward.read().requested + step.backward.read().requested
    rest -= step.forward.read(features).requested + step.backward.read(features).requested
    assert rest <= 4 * 10 * batch * channels + looks * batch * channels * features[0, 0].numel()


def test_a_map_too_large_for_a_program():
    features = features_of(ChannelGroups([2, 1]), 66, batch=1)
    step = record_step(features, ChannelGroups([2, 1]))
    assert step.forward.read(features).sectors == step.backward.read(features).sectors == in_sectors(features.nbytes)
    assert step.forward.read(features).requested == step.backward.read(features).requested == 2 * features.nbytes
    assert step.backward.written(step.grad).requested == features.nbytes


@pytest.mark.parametrize("mask_kind", ["none", "per sample"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("side", [7, 14])
def test_one_result_costs_no_more_than_its_part(side, layout, mask_kind):
    features = features_of(SPLIT, side, layout=layout)
    batch, channels, classes = *features.shape[:2], SPLIT.num_classes
    mask = make_mask(mask_kind, batch, channels)
    both = record_step(features, SPLIT, mask)
    scores = record_step(features, SPLIT, mask, diversity=False)
    diversity = record_step(features, SPLIT, mask, scores=False)
    for one in (scores, diversity):
        assert one.forward.read().requested <= both.forward.read().requested
        assert one.backward.read().requested <= both.backward.read().requested
        assert one.forward.lanes < both.forward.lanes
        assert one.backward.lanes < both.backward.lanes
        assert one.backward.written(one.grad).requested == features.nbytes
    # Class scores have no softmax: no statistics are kept or read, and backward needs no features.
    winners = batch * classes * side**2
    assert scores.forward.read(features).requested == features.nbytes
    assert scores.backward.read(features).requested == 0
    assert scores.forward.written().requested == scores.temporaries == winners + 4 * batch * classes
    statistics = 4 * batch * 2 * channels
    assert diversity.forward.written().requested == diversity.temporaries == winners + statistics + 4 * batch * classes


# Results and temporaries

SIZES = [(RESNET50, 14, 0.08), (FROM_SCRATCH, 14, 0.2), (SMALL, 14, 0.24), (FROM_SCRATCH, 28, 0.18)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize(("groups", "side", "part"), SIZES, ids=name)
def test_how_large_results_and_temporaries_are(groups, side, part, dtype, layout):
    """At full size: g and h, two statistics per map, each 4 bytes; the winners of a class and position in one byte.

    Of the features in 16 bits this is the part that is named.
    """
    features = torch.empty(32, groups.num_channels, side, side, dtype=dtype)
    features = features.contiguous(
        memory_format=torch.channels_last if layout == "channels_last" else torch.contiguous_format
    )
    with patch.object(
        type(whole_maps.forward_kernel), "__getitem__", lambda kernel, grid: lambda *args, **options: None
    ):
        step = record_step(features, groups, torch.ones(groups.num_channels))
    results, statistics = 2 * 4 * groups.num_classes, 2 * 4 * groups.num_channels
    assert step.temporaries == 32 * (results + statistics + groups.num_classes * side**2)
    assert step.temporaries < part * features.nbytes * 2 / dtype.itemsize


# Growth


@pytest.fixture(scope="module", params=LAYOUTS)
def small_step(request):
    return request.param, amounts(Size().step(request.param))


@pytest.mark.parametrize("dimension", LARGER)
def test_everything_grows_in_proportion(dimension, small_step):
    """16 times the samples, classes, channels of a class, or positions, in as many launches."""
    layout, small = small_step
    large = amounts(LARGER[dimension].step(layout))
    assert large["launches"] == small["launches"] == 2
    batch, classes, channels, side = LARGER[dimension]
    # Backward looks twice at large maps in channels_last, the second time in a cache.
    looks = 2 if layout == "channels_last" and side > 16 else 1
    assert large["F read"] == 8 * (1 + looks) * small["F read"]
    assert large["dF written"] == 16 * small["dF written"]
    # The winners of a position take a second byte from 16 channels on; forward writes them, each channel reads them.
    winners = batch * classes * side**2 * (1 if channels < 16 else 2)
    small_winners = Size().classes * Size().side ** 2
    rest, small_rest = large["rest"] - winners * (1 + looks * channels), small["rest"] - small_winners * (1 + 3)
    assert 0 < rest <= 16 * small_rest
    # Of the positions there are none in the results, of the channels none in g and h.
    assert large["temporaries"] == batch * classes * 8 * (1 + channels) + winners
    assert large["lanes"] <= 8 * (1 + looks) * small["lanes"]


# Some classes of one sample stand for all


@pytest.mark.parametrize("layout", LAYOUTS)
def test_some_classes_of_one_sample_stand_for_all(layout):
    """2 samples of 80 classes with 240 channels against 16 classes of one sample; tables of 81 numbers against 17."""
    case = Case(2, ChannelGroups.uniform(80, 3), 7, torch.bfloat16, layout)
    assert fewer_classes(case.groups) == (ChannelGroups.uniform(16, 3), 5)
    step = record_step(case.features(), case.groups, torch.ones(240))
    for estimate, of in zip(bytes_of_batch(case), (step.forward, step.backward), strict=True):
        assert estimate == pytest.approx(of.read().sectors + of.written().sectors, rel=0.005)


def test_fewer_classes_have_the_same_proportions_and_alignment():
    for case in real_cases().values():
        groups, fraction = fewer_classes(case.groups)
        assert [(classes * fraction, size) for classes, size in groups.runs] == list(case.groups.runs)
        for aligned in (2, 4, 8):
            assert (groups.num_channels % aligned == 0) == (case.groups.num_channels % aligned == 0)
    assert fewer_classes(ChannelGroups([2, 3, 2, 3])) == (ChannelGroups([2, 3, 2, 3]), 1)


# The counter itself


@triton.jit
def copy_kernel(source, target, size, READS: tl.constexpr, WRITES: tl.constexpr, TILE: tl.constexpr):
    places = tl.program_id(0) * TILE + tl.arange(0, TILE)
    for _ in range(READS):
        x = tl.load(source + places, mask=places < size)
    for _ in range(WRITES):
        tl.store(target + places, x, mask=places < size)


@pytest.mark.parametrize(("reads", "writes"), [(1, 1), (2, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=name)
def test_counter(dtype, reads, writes):
    source, target = torch.rand(200).to(dtype), torch.zeros(200, dtype=dtype)
    with record_traffic() as traffic:
        copy_kernel[(4,)](source, target, 200, READS=reads, WRITES=writes, TILE=64)
        torch.empty(10), source.view(20, 10), source + 1
    assert torch.equal(source, target)
    size = 200 * dtype.itemsize
    assert traffic.read() == traffic.read(source) == (reads * size, in_sectors(size), in_sectors(size))
    assert traffic.written() == traffic.written(target) == (writes * size, in_sectors(size), in_sectors(size))
    assert traffic.read(target) == traffic.written(source) == (0, 0, 0)
    assert traffic.lanes == 256 * (reads + writes)
    assert traffic.launches == 1
    assert traffic.allocated == 10 * 4 + size


def test_counter_sees_sectors_that_programs_share():
    """Programs of 4 float32 each, half a sector; and a source that begins in the middle of one."""
    source, target = torch.rand(70)[3:67], torch.zeros(64)
    with record_traffic() as traffic:
        copy_kernel[(16,)](source, target, 64, READS=2, WRITES=1, TILE=4)
    assert traffic.written(target) == (256, 16 * 32, 256)
    assert traffic.read(source) == (512, 24 * 32, 9 * 32)
