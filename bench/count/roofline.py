"""The least time of a step on a GPU, by a model: bytes by published bandwidth, and launches at a stated cost.

A model, not a measurement. Real kernels reach some 80 to 95 percent of the published bandwidth; features that the
GPU's cache holds (50 MB on an H100) may be read faster than from memory.
"""

from __future__ import annotations

# GB/s, from the vendors' data sheets: NVIDIA A100 80GB SXM (2,039 GB/s), H100 SXM (3.35 TB/s), H200 (4.8 TB/s),
# DGX B200 (64 TB/s for eight), AMD Instinct MI300X (5.3 TB/s).
BANDWIDTHS = {"A100 80GB SXM": 2039, "H100 SXM": 3350, "H200": 4800, "B200": 8000, "MI300X": 5300}

# From one kernel to the next, without CUDA graphs. An empty kernel takes 2 to 5 µs on real systems, host and driver
# included, as long as the host keeps ahead of the GPU; where it does not, as in eager PyTorch with few samples, more.
LAUNCH_MICROSECONDS = 3.0


def milliseconds(gpu: str, nbytes: int, launches: int) -> float:
    """The least time that so many bytes and launches take.

    Args:
        gpu: a key of `BANDWIDTHS`.
        nbytes: read from and written to memory.
        launches: how many kernels.
    """
    return nbytes / (BANDWIDTHS[gpu] * 1e6) + launches * LAUNCH_MICROSECONDS / 1e3
