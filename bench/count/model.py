"""The least time of a step on a GPU: to move its bytes or to issue its instructions, the longer one, and to launch.

A model, not a measurement. Kernels reach some 80 to 95 % of the published bandwidth and less of the issue rate, since
warps wait; features that fit the GPU's cache may be read faster than from memory.
"""

from __future__ import annotations

from dataclasses import dataclass

ISSUES_PER_CLOCK = 4  # of an SM: one warp instruction in each of its four partitions
LAUNCH_MICROSECONDS = 3.0  # from one kernel to the next, without CUDA graphs; 2 to 5 on real systems


@dataclass(frozen=True)
class GPU:
    """Published figures of a GPU that runs code for sm_90.

    Attributes:
        bandwidth: of its memory, GB/s.
        sms: streaming multiprocessors.
        clock: the highest, GHz.
    """

    bandwidth: float
    sms: int
    clock: float


# Data sheets: H100 SXM 3.35 TB/s, H200 4.8 TB/s; both 132 SMs at up to 1.98 GHz.
GPUS = {"H100 SXM": GPU(3350, 132, 1.98), "H200": GPU(4800, 132, 1.98)}


def memory_ms(gpu: GPU, nbytes: float) -> float:
    """Time to move so many bytes."""
    return nbytes / (gpu.bandwidth * 1e6)


def issue_ms(gpu: GPU, slots: float) -> float:
    """Time to issue so many warp instructions on all SMs."""
    return slots / (ISSUES_PER_CLOCK * gpu.sms * gpu.clock * 1e6)


def step_ms(gpu: GPU, nbytes: float, slots: float, launches: int) -> float:
    """The larger of both times, and the launches."""
    return max(memory_ms(gpu, nbytes), issue_ms(gpu, slots)) + launches * LAUNCH_MICROSECONDS / 1e3
