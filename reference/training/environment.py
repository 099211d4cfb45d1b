"""Machine and versions of a measurement."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def environment() -> dict[str, str | int]:
    """The processor, how many of its cores this process may use, and the versions."""
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def usable_cores() -> int:
    """Cores that this process may run on, where the system has such a list; else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
