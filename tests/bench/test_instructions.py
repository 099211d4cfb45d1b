"""Instructions are counted by class, those of a loop once per trip; on code whose count is known by hand."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from itertools import product

import pytest
import torch

from bench.count.compiled import Variant, workers
from bench.count.instructions import H200, MachineCode, disassembled, issue_of
from mcl_triton import ChannelGroups

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs the tools that come with Triton")

# Of the time to issue, as a multiple of that to move the bytes.
BOUNDS = [
    (torch.float32, "contiguous", 1),
    (torch.bfloat16, "contiguous", 1.5),
    (torch.bfloat16, "channels_last", 2),
]
SOURCE = """
for row in range(num_rows):
    for first in range(0, num_columns, STEP):
        total += exp2(load(first))
    total += shuffle(total)
    store(total)
"""
# By hand: a load, an exponential and an addition per trip of the inner loop, and 32 columns of 4 bytes between trips; a
# shuffle, an addition and a store per trip of the outer loop; a barrier at the end. Both loops have at least one trip.
PTX = """
.version 8.7
.target {target}
.address_size 64
.visible .entry kernel(.param .u64 values, .param .u64 results, .param .u32 rows, .param .u32 columns)
{{
    .reg .pred %p<4>;
    .reg .b32 %r<8>;
    .reg .f32 %f<8>;
    .reg .b64 %rd<8>;
    .loc 1 1 0
    ld.param.u64 %rd1, [values];
    ld.param.u64 %rd2, [results];
    ld.param.u32 %r1, [rows];
    ld.param.u32 %r2, [columns];
    mov.u32 %r3, 0;
    mov.f32 %f1, 0f00000000;
ROW:
    .loc 1 2 0
    mov.u32 %r4, 0;
COLUMN:
    .loc 1 4 0
    ld.global.f32 %f2, [%rd1];
    ex2.approx.ftz.f32 %f3, %f2;
    add.f32 %f1, %f1, %f3;
    add.u64 %rd1, %rd1, 128;
    .loc 1 3 0
    add.u32 %r4, %r4, 32;
    setp.lt.u32 %p1, %r4, %r2;
    @%p1 bra COLUMN;
    .loc 1 5 0
    shfl.sync.bfly.b32 %f4, %f1, 16, 31, -1;
    add.f32 %f1, %f1, %f4;
    .loc 1 6 0
    st.global.f32 [%rd2], %f1;
    add.u64 %rd2, %rd2, 4;
    .loc 1 2 0
    add.u32 %r3, %r3, 1;
    setp.lt.u32 %p2, %r3, %r1;
    @%p2 bra ROW;
    bar.sync 0;
    ret;
}}
.file 1 "kernel.py"
"""


def code_for(target: str) -> MachineCode:
    return MachineCode(PTX.format(target=target), {"kernel.py": SOURCE})


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize(("rows", "trips"), [(1, 1), (3, 1), (1, 7), (5, 6)])
def test_loops_count_once_per_trip(target: str, rows: int, trips: int) -> None:
    issued = code_for(target).issued({"num_rows": rows, "num_columns": 32 * trips, "STEP": 32})
    assert issued["loads and stores"] == rows * trips + rows
    assert issued["MUFU"] == rows * trips
    assert issued["shuffles"] == rows
    assert issued["barriers"] == 1
    assert issued["branches"] == rows * trips + rows + 1  # and the exit


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_a_trip_of_the_inner_loop(target: str) -> None:
    """One more trip of the inner loop adds what is written, by class, and a few moves of registers beside two sums."""
    one, two = (code_for(target).issued({"num_rows": 1, "num_columns": 32 * n, "STEP": 32}) for n in (1, 2))
    added = two - one
    assert 2 <= added.pop("integer") <= 6
    assert added == Counter({"loads and stores": 1, "MUFU": 1, "float": 1, "selects and predicates": 1, "branches": 1})


def test_every_instruction_counts_once_without_a_trip_more() -> None:
    """The sum over all classes is the number of instructions up to the exit."""
    listed = disassembled(PTX.format(target="sm_90")).split("EXIT")[0].count("/*0")
    assert code_for("sm_90").issued({"num_rows": 1, "num_columns": 1, "STEP": 1}).total() == listed


def test_a_loop_without_a_statement_is_refused() -> None:
    with pytest.raises(ValueError, match=r"kernel\.py has no range"):
        MachineCode(PTX.format(target="sm_90"), {"kernel.py": "\n" * 9})
    with pytest.raises(NameError, match="num_rows"):
        code_for("sm_90").issued({"num_columns": 1, "STEP": 1})


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_the_kernels_take_an_exponential_of_each_element(layout: str) -> None:
    """One each way; tiles are up to a third larger than what they hold."""
    case = Variant(32, ChannelGroups.uniform(200, 3), 14, torch.float32, layout)
    with workers() as pool:
        forward, backward, mask = pool.submit(issue_of, "sm_90", case).result()
    elements = case.nbytes / case.dtype.itemsize
    assert elements < 32 * forward.slots["MUFU"] < 1.5 * elements
    assert elements < 32 * backward.slots["MUFU"] < 1.5 * elements
    assert 32 * mask.slots["MUFU"] < 0.1 * elements


@pytest.mark.parametrize(("dtype", "layout", "most"), BOUNDS)
def test_issue_time_against_memory_time(dtype: torch.dtype, layout: str, most: float) -> None:
    """Of a step that reads F twice and writes dF, and writes and reads a byte of winners per class and position."""
    with workers() as pool:
        for groups, side in product((ChannelGroups.uniform(200, 3), ChannelGroups.split(2048, 200)), (7, 14)):
            case = Variant(32, groups, side, dtype, layout)
            issued = sum(issue.microseconds() for issue in pool.submit(issue_of, "sm_90", case).result())
            winners = case.batch * groups.num_classes * side**2
            assert issued <= most * H200.memory_microseconds(3 * case.nbytes + 2 * winners), case


def test_time_to_issue() -> None:
    """132 SMs with four schedulers at 1.98 GHz issue 1.045 instructions of a warp per picosecond."""
    assert H200.issue_microseconds(1.04544e9) == pytest.approx(1000)
    assert H200.memory_microseconds(4.3e6) == pytest.approx(1)
