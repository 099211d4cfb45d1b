"""How many warps of a kernel run side by side on a streaming multiprocessor (SM), at most, by NVIDIA's limits.

Source: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability", and the rules of the CUDA
Occupancy Calculator (cuda_occupancy.h) for how registers and shared memory are handed out. It is a limit, not a
measurement: a launch of few programs, or waiting for memory, leaves warps idle.
"""

from __future__ import annotations

REGISTERS = 65536  # of an SM
WARPS = 64
PROGRAMS = 32
LANES = 32  # threads of a warp
PARTITIONS = 4  # of an SM; a warp's registers are those of one
REGISTER_UNIT = 256  # registers are handed out to a warp in such pieces
SHARED_UNIT = 128  # and shared memory to a program
SHARED_RESERVED = 1024  # bytes of each program, for the system
SHARED_BYTES = {"sm_80": 164 << 10, "sm_90": 228 << 10, "sm_100": 228 << 10}  # of an SM, at most


def occupancy(target: str, registers: int, num_warps: int, shared: int) -> float:
    """The part of an SM's warps that can be resident at a time, from 0 to 1.

    Args:
        target: a key of `SHARED_BYTES`.
        registers: of a thread.
        num_warps: of a program (thread block).
        shared: bytes of shared memory of a program.
    """
    return resident_programs(target, registers, num_warps, shared) * num_warps / WARPS


def resident_programs(target: str, registers: int, num_warps: int, shared: int) -> int:
    """Programs that an SM can hold at a time; the arguments are those of `occupancy`."""
    registers_of_warp = _rounded_up(registers * LANES, REGISTER_UNIT)
    warps_by_registers = REGISTERS // PARTITIONS // registers_of_warp * PARTITIONS
    shared_of_program = _rounded_up(shared + SHARED_RESERVED, SHARED_UNIT)
    return min(
        PROGRAMS,
        WARPS // num_warps,
        warps_by_registers // num_warps,
        SHARED_BYTES[target] // shared_of_program,
    )


def _rounded_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
