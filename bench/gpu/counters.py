"""Stage 5: what the hardware counts in a step, by NVIDIA's ncu, beside what was counted without a GPU.

Bytes of memory, issued instructions and cache hits of each kernel; counters.log keeps all that ncu says. The clocks
stay as they are (`--clock-control none`).
"""

from __future__ import annotations

import csv
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from .. import results
from ..cases import Case, line_of, quick_cases
from ..measure.compare import device_facts
from ..providers import OURS, Inputs
from .stage import Part, Setup, Skipped

ROOT = Path(__file__).parents[2]
READ, WRITTEN, INSTRUCTIONS = "dram__bytes_read.sum", "dram__bytes_write.sum", "smsp__inst_executed.sum"
L1_LOADS = "l1tex__t_sectors_pipe_lsu_mem_global_op_ld"  # sectors that loads from global memory ask the first cache for
L2_READS = "lts__t_sectors_op_read"
METRICS = (
    *(READ, WRITTEN, INSTRUCTIONS, "gpu__time_duration.sum", "dram__throughput.avg.pct_of_peak_sustained_elapsed"),
    *("sm__inst_issued.avg.pct_of_peak_sustained_active", "sm__warps_active.avg.pct_of_peak_sustained_active"),
    *(f"{L1_LOADS}.sum", f"{L1_LOADS}_lookup_hit.sum", f"{L2_READS}.sum", f"{L2_READS}_lookup_hit.sum"),
)
MODES = {"forward": "forward", "backward": "backward", "gradient": "backward"}  # by a part of a kernel's name
SECTIONS = ("SpeedOfLight", "MemoryWorkloadAnalysis", "SchedulerStats", "WarpStateStats", "LaunchStats", "Occupancy")


def parts(setup: Setup) -> list[Part]:
    """A profile per case of CUB."""
    return [
        Part(line_of(case), lambda number=number, case=case: profile(setup, number, case))  # type: ignore[misc]
        for number, case in enumerate(quick_cases())
    ]


def profile(setup: Setup, number: int, case: Case) -> str:
    """One step of ours under ncu; prints a table of its kernels, and returns the totals."""
    setup.require_gpu()
    program = next(
        (path for path in (shutil.which("ncu"), "/usr/local/cuda/bin/ncu") if path and Path(path).exists()), None
    )
    if program is None:
        raise Skipped("ncu is not installed")
    output = ""
    for wanted in (["--metrics", ",".join(METRICS)], []):  # a release may lack a metric, but not the sections
        sections = [word for section in SECTIONS for word in ("--section", section)]
        output = _run(
            [
                *(program, "--clock-control", "none", "--profile-from-start", "off"),
                *("--target-processes", "application-only", "--csv", "--page", "raw", "--print-units", "base"),
                *("--print-kernel-base", "demangled"),  # so that PyTorch's kernels can be told by their namespace
                *(*sections, *wanted, sys.executable, "-m", "bench.gpu.counters", str(number)),
            ],
            setup.folder / "counters.log",
        )
        if kernels := kernels_of(output):
            break
    else:
        telling = [line for line in output.splitlines() if re.search(r"error|fail|not supported|ERR_", line, re.I)]
        raise Skipped(f"it does not work here: {(telling or output.splitlines() or ['no output'])[0][:200]}")
    results.append(setup.results, rows(kernels, case, setup.device))
    return report(kernels, case)


def _run(command: list[str], log: Path) -> str:
    environment = os.environ | {"LC_ALL": "C"}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"# {' '.join(command)}\n{done.stdout}")
    return done.stdout


def kernels_of(output: str) -> list[dict[str, str]]:
    """The rows of ncu's table: a kernel each, its name under "Kernel Name", numbers without separators."""
    lines = output.splitlines()
    start = next((number for number, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        return []
    table = [line for line in lines[start:] if line.startswith('"')]
    return [row for row in csv.DictReader(table) if row["ID"]]  # the first row has units and no ID


def number_of(kernel: Mapping[str, str], metric: str) -> float:
    """A metric of a kernel; NaN where it is missing."""
    try:
        return float(kernel[metric].replace(",", ""))
    except (KeyError, ValueError, AttributeError):
        return math.nan


def facts_of(kernel: Mapping[str, str]) -> dict[str, float]:
    """Metrics of the results by name, as far as ncu gave them."""
    read, written = number_of(kernel, READ), number_of(kernel, WRITTEN)
    l1, l2 = (
        number_of(kernel, f"{cache}_lookup_hit.sum") / (number_of(kernel, f"{cache}.sum") or math.nan)
        for cache in (L1_LOADS, L2_READS)
    )
    facts = {
        "kernel": number_of(kernel, "gpu__time_duration.sum") / 1e6,
        "traffic": read + written,
        "issue slots": number_of(kernel, INSTRUCTIONS),
        "memory throughput": number_of(kernel, "dram__throughput.avg.pct_of_peak_sustained_elapsed") / 100,
        "issue activity": number_of(kernel, "sm__inst_issued.avg.pct_of_peak_sustained_active") / 100,
        "first cache hits": l1,
        "second cache hits": l2,
    }
    return {name: value for name, value in facts.items() if value == value}


def rows(kernels: Iterable[Mapping[str, str]], case: Case, device: torch.device) -> list[dict[str, Any]]:
    """Rows of results for our own kernels."""
    found = []
    for kernel in kernels:
        name = kernel["Kernel Name"]
        if "::" in name:  # PyTorch's
            continue
        mode = next((mode for part, mode in MODES.items() if part in name), "")
        facts = case.facts | OURS["triton"].facts | device_facts(device) | {"kernel": name, "mode": mode}
        found += [results.result(metric, value, "measured", **facts) for metric, value in facts_of(kernel).items()]
    return found


def report(kernels: list[dict[str, str]], case: Case) -> str:
    """Print a line per kernel and what was counted without a GPU; return what our kernels moved and issued."""
    moved = issued = 0.0
    for kernel in kernels:
        facts = facts_of(kernel)
        print(f"  {kernel['Kernel Name'][:60]:60}", "  ".join(f"{name} {value:.4g}" for name, value in facts.items()))
        if "::" not in kernel["Kernel Name"]:
            moved += facts.get("traffic", 0)
            issued += facts.get("issue slots", 0)
    for line in counted(case):
        print(f"  counted: {line}")
    least = 3 * case.nbytes
    return (
        f"{len(kernels)} launches; our kernels moved {moved / 2**20:.1f} MiB ({moved / least:.2f} of the least) and "
        f"issued {issued / 1e6:.2f} million warp instructions"
    )


def counted(case: Case) -> list[str]:
    """What static.csv has about a case: bytes of any GPU, and instructions for sm_90."""
    path = results.FOLDER / "static.csv"
    if not path.exists():
        return []
    facts = {name: str(value) for name, value in case.facts.items()}
    with open(path, newline="", encoding="utf-8") as file:
        return [
            f"{row['device']} {row['mode']} {row['kernel']} {row['metric']} {row['value']} {row['unit']}"
            for row in csv.DictReader(file)
            if row["provider"] == "ours"
            and row["metric"] in ("traffic", "issue slots", "launches", "registers")
            and row["device"] in ("GPU", "sm_90")
            and all(row[name] == value for name, value in facts.items())
        ]


def main(arguments: list[str]) -> int:
    """The step that ncu looks at: it begins when everything is compiled."""
    inputs = Inputs.of(quick_cases()[int(arguments[0])], "cuda")
    for _ in range(2):
        inputs.step(OURS["triton"].loss)
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStart()
    inputs.step(OURS["triton"].loss)
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
