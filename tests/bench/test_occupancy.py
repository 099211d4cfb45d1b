"""Warps that fit on an SM, and the least time of a step, against examples that are worked out by hand."""

import pytest

from bench.count.occupancy import occupancy, resident_programs
from bench.count.roofline import BANDWIDTHS, milliseconds


@pytest.mark.parametrize(
    ("registers", "num_warps", "programs", "of_warps"),
    [
        # NVIDIA's CUDA C++ Best Practices Guide, "Calculating Occupancy", for 65536 registers and 64 warps: 37
        # registers a thread let 12 programs of 128 threads run, 75 %, but 4 of 320 threads, 63 %.
        (37, 4, 12, 0.75),
        (37, 10, 4, 0.625),
        (32, 4, 16, 1.0),  # there too: 32 registers a thread are the most for all 64 warps
        # By hand: 96 · 32 = 3072 registers a warp, of 16384 in each of four partitions: 5 warps each, 20 in all.
        (96, 1, 20, 20 / 64),
        (96, 4, 5, 20 / 64),
        # 97 · 32 = 3104, rounded up to 3328: 4 warps each, 16 in all.
        (97, 1, 16, 16 / 64),
        # 255 · 32 = 8160, rounded up to 8192: 2 warps each, and 8 warps are one program.
        (255, 8, 1, 8 / 64),
        # 24 · 32 = 768: 21 warps each, 84 in all, of which 64 fit; but no more than 32 programs.
        (24, 1, 32, 0.5),
        (24, 2, 32, 1.0),
    ],
)
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_registers_and_warps(target, registers, num_warps, programs, of_warps):
    assert resident_programs(target, registers, num_warps, shared=0) == programs
    assert occupancy(target, registers, num_warps, shared=0) == of_warps


@pytest.mark.parametrize(
    ("target", "shared", "programs"),
    [
        # 4096 bytes and 1024 of the system: 167936 / 5120 = 32.8, and 233472 / 5120 = 45.6; but 32 programs at most.
        ("sm_80", 4096, 32),
        ("sm_90", 4096, 32),
        # 16384 and 1024: 167936 / 17408 = 9.6, 233472 / 17408 = 13.4.
        ("sm_80", 16384, 9),
        ("sm_90", 16384, 13),
        ("sm_100", 16384, 13),
        # The most that one program may have, 163 kB and 227 kB, and a byte more.
        ("sm_80", 163 * 1024, 1),
        ("sm_80", 163 * 1024 + 1, 0),
        ("sm_90", 227 * 1024, 1),
        # 100 and 1024, rounded up to 1152: 233472 / 1152 = 202.
        ("sm_90", 100, 32),
    ],
)
def test_shared_memory(target, shared, programs):
    assert resident_programs(target, registers=32, num_warps=1, shared=shared) == programs


def test_a_step_at_the_published_bandwidth():
    """6.7 GB at 3.35 TB/s are 2 ms; 10 launches of 3 µs are 0.03 ms."""
    assert milliseconds("H100 SXM", 6_700_000_000, 0) == pytest.approx(2)
    assert milliseconds("H100 SXM", 6_700_000_000, 10) == pytest.approx(2.03)
    assert milliseconds("H200", 0, 10) == pytest.approx(0.03)
    assert BANDWIDTHS["A100 80GB SXM"] < BANDWIDTHS["H100 SXM"] < BANDWIDTHS["H200"] < BANDWIDTHS["B200"]
