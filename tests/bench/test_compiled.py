"""What the compiler makes of the kernels for GPUs that are not there: registers, spills, widths of memory accesses.

Of every configuration that the heuristic chooses for the realistic shapes of `bench.count.compiled`, on every target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from math import gcd

import pytest
import torch
from packaging.version import Version

from bench.count.access_widths import Access
from bench.count.compiled import (
    BATCH,
    TARGETS,
    Report,
    Variant,
    compile_cases,
    compile_one,
    odd_cases,
    realistic_cases,
    widths_in_machine_code,
    workers,
)
from mcl_triton import ChannelGroups

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton's compiler")

# An SM has 65536 registers. A thread has up to 32 elements at a time, independent of each other, so that 8 warps side
# by side are enough: of 255 registers, the most a thread can have. What does not fit goes to the stack.
NVIDIA_REGISTERS = {"whole_maps.forward": 255, "gradient.backward": 255, "masks.mask": 128}
# A SIMD unit of AMD has 512 for each lane: 256 let two warps take turns.
AMD_REGISTERS = 256
# As found: bytes of stack in the parts of large groups, and before Triton 3.7 in the pieces themselves;
# scalar registers that go to a vector register on gfx942.
release = Version(version("triton")) if find_spec("triton") else Version("0")
STACK = {("sm_80", "whole_maps.combine"): 8, ("sm_80", "whole_maps.forward"): 8 if release < Version("3.7") else 0}
SCALAR_SPILLS = 7 if release < Version("3.7") else 6 if release < Version("3.9") else 0
# Bytes of shared memory per program, as found; a compute unit of gfx942 has 64 KiB, so four programs fit.
SHARED = {"gfx942": 16384}
# On gfx942 up to a quarter of the bytes are not attributed to the line of their access. Why is not known.
RECOGNISED = {"gfx942": 0.75}
KERNELS = list(NVIDIA_REGISTERS)
OF_MAPS = KERNELS[:2]  # that read the features, or write their gradient
FROM_SCRATCH, RESNET50 = ChannelGroups.uniform(200, 3), ChannelGroups.split(2048, 200)


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with workers() as pool:
        yield pool


@pytest.fixture(scope="module")
def reports_for(pool: ProcessPoolExecutor) -> Callable[[str], list[Report]]:
    """Everything that is compiled for a target, once."""
    return cache(lambda target: compile_cases(pool, realistic_cases(), [target]))


@pytest.fixture
def reports(reports_for: Callable[[str], list[Report]], target: str) -> list[Report]:
    return reports_for(target)


def of_kernel(reports: list[Report], kernel: str) -> list[Report]:
    """The reports on one kernel; there are some."""
    chosen = [report for report in reports if report.kernel == kernel]
    assert chosen
    return chosen


def check_registers(report: Report) -> None:
    """Registers within the bound, none on the stack or in scratch memory."""
    assert report.registers <= (AMD_REGISTERS if report.target == "gfx942" else NVIDIA_REGISTERS[report.kernel]), report
    assert report.spills == 0, report
    assert report.stack <= STACK.get((report.target, report.kernel), 0), report
    assert report.scalar_spills <= SCALAR_SPILLS, report


def check_widths(report: Report) -> None:
    """All of F and dF that a thread has to move is accounted for, in accesses as wide as alignment allows."""
    whats = ["load features", "store grad"] if report.kernel.endswith("backward") else ["load features"]
    assert {access.what for access in report.maps} == set(whats), report
    wanted = max(width_that_is_possible(case, report.kernel) for case in report.cases)
    for access in report.maps:
        least = RECOGNISED.get(report.target, 1) * access.thread_bytes
        assert sum(access.widths) >= least > 0, report  # else some instruction was not recognised
        assert min(access.widths) >= wanted, report


def width_that_is_possible(case: Variant, kernel: str) -> int:
    """Bytes, up to 8, that alignment lets one instruction access anywhere in the features; memory begins aligned.

    Forward reads channels_last one element per thread: the threads of a warp are classes next to each other, and what
    else lies in the sectors of memory that they touch is read by the next instructions, from the cache.
    """
    if case.layout == "contiguous":  # the map of each channel follows that of the one before
        return gcd(8, case.side**2 * case.dtype.itemsize)
    if kernel == "whole_maps.forward":
        return case.dtype.itemsize
    return gcd(8, case.groups.num_channels * case.dtype.itemsize)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("target", TARGETS)
def test_registers_are_within_bounds_and_none_is_spilled(reports: list[Report], kernel: str) -> None:
    for report in of_kernel(reports, kernel):
        check_registers(report)


@pytest.mark.parametrize("kernel", OF_MAPS)
@pytest.mark.parametrize("target", TARGETS)
def test_maps_are_accessed_as_widely_as_alignment_allows(reports: list[Report], kernel: str) -> None:
    for report in of_kernel(reports, kernel):
        check_widths(report)


@pytest.mark.parametrize("target", TARGETS)
def test_shared_memory_leaves_room_for_other_programs(reports: list[Report], target: str) -> None:
    assert max(report.shared for report in reports) <= SHARED.get(target, 8192)


@pytest.mark.parametrize("target", TARGETS)
def test_what_stays_narrow_and_why(reports: list[Report]) -> None:
    """Contiguous maps of 7×7, whose rows begin at odd elements; and 306 channels of two bytes in channels_last."""
    narrow = set()
    of_maps = [report for kernel in OF_MAPS for report in of_kernel(reports, kernel)]
    for report in of_maps:
        if report.kernel == "whole_maps.forward" and report.cases[0].layout == "channels_last":
            continue  # one element at a time, on purpose
        width = min(min(access.widths) for access in report.maps)
        if width < 8:
            shapes = {
                case.groups.num_channels if case.layout == "channels_last" else case.side for case in report.cases
            }
            assert len(shapes) == 1
            narrow.add((report.cases[0].layout, *shapes, report.cases[0].dtype, width))
    assert narrow == {
        ("contiguous", 7, torch.float32, 4),
        ("contiguous", 7, torch.bfloat16, 2),
        ("channels_last", 306, torch.bfloat16, 4),
    }


@pytest.mark.parametrize("target", TARGETS)
def test_every_case_is_compiled_in_both_directions_and_with_its_mask(reports: list[Report]) -> None:
    for part in ("forward", "backward", "mask"):
        cases = [case for report in reports if report.kernel.endswith(part) for case in report.cases]
        assert sorted(map(str, cases)) == sorted(map(str, realistic_cases()))


@pytest.mark.parametrize("target", TARGETS)
def test_the_mask_has_a_kernel_for_each_size_of_tile(reports: list[Report]) -> None:
    """Up to 3, 6, 11 and 21 channels of a class, whatever the maps."""
    masks = of_kernel(reports, "masks.mask")
    places = {report.constants["TILE_PLACES"]: max(max(case.groups.sizes) for case in report.cases) for report in masks}
    assert places == {4: 3, 8: 6, 16: 11, 32: 21}
    for report in masks:
        assert report.constants["TILE_CLASSES"] * report.constants["TILE_PLACES"] == 256
        assert report.maps == ()


def test_odd_cases_are_compiled_too(pool: ProcessPoolExecutor) -> None:
    """Other masks, results, dtypes, groups, sizes and layouts; float64 takes up to twice the registers."""
    for report in compile_cases(pool, odd_cases(), list(TARGETS)):
        assert report.spills == 0, report
        assert report.stack <= STACK.get((report.target, report.kernel), 0), report
        assert report.scalar_spills == 0 or report.cases[0].dtype == torch.float64, report
        usual = NVIDIA_REGISTERS.get(report.kernel, 128)
        assert report.registers <= (255 if report.cases[0].dtype == torch.float64 else usual), report
        least = RECOGNISED.get(report.target, 1)
        assert all(sum(access.widths) >= least * access.thread_bytes for access in report.maps), report


# The checks can fail


@pytest.mark.parametrize(
    ("target", "constants"), [("sm_90", {"num_warps": 1}), ("gfx942", {"num_warps": 1, "COLUMNS": 4096, "ROWS": 4})]
)
def test_too_large_a_tile_is_seen_to_spill(pool: ProcessPoolExecutor, target: str, constants: dict[str, int]) -> None:
    case = Variant(BATCH, FROM_SCRATCH, 56)
    check_registers(pool.submit(compile_one, target, case, "backward").result())
    spilled = pool.submit(compile_one, target, case, "backward", **constants).result()
    assert spilled.stack > 0
    with pytest.raises(AssertionError):
        check_registers(spilled)


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_odd_strides_are_seen_to_be_narrow(pool: ProcessPoolExecutor, target: str, layout: str) -> None:
    case = Variant(BATCH, FROM_SCRATCH, 14, torch.float32, layout)
    stride = "CHANNEL_STRIDE" if layout == "contiguous" else "POSITION_STRIDE"
    narrow = pool.submit(compile_one, target, case, "backward", **{stride: 601, f"GRAD_{stride}": 601}).result()
    assert narrow.widths("load features") == narrow.widths("store grad") == {4}
    with pytest.raises(AssertionError):
        check_widths(narrow)


@pytest.mark.parametrize("target", ["sm_90"])
def test_an_instruction_that_is_not_recognised_is_missed(reports: list[Report]) -> None:
    report = of_kernel(reports, "whole_maps.forward")[0]
    access = report.maps[0]
    with pytest.raises(AssertionError):
        check_widths(report._replace(maps=(Access(access.what, access.line, (), access.thread_bytes),)))


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_widths_are_those_of_the_machine_code(pool: ProcessPoolExecutor, layout: str, direction: str) -> None:
    """Widths are read from PTX, since a line that the machine code is labelled with may be that of a neighbour."""
    case = Variant(BATCH, RESNET50, 14, torch.bfloat16, layout)
    machine_code = pool.submit(widths_in_machine_code, "sm_90", case, direction)
    report = pool.submit(compile_one, "sm_90", case, direction).result()
    ptx = {width for access in report.maps for width in access.widths} | set(report.others)
    assert machine_code.result()["load"] | machine_code.result()["store"] == ptx
