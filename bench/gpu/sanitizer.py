"""Stage 3: memory errors and races in `launches`, by NVIDIA's compute-sanitizer; sanitizer.log keeps what it says.

PyTorch's cache of memory is off, so that each tensor ends where its memory does. At the end of the script a kernel
writes past the end of a tensor on purpose: a tool that does not report that proves nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import torch

from . import launches, planted
from .stage import Part, Setup, Skipped

ROOT = Path(__file__).parents[2]
TOOLS = {  # and what they look for
    "memcheck": "accesses outside of the tensors",
    "racecheck": "races in shared memory",
    "initcheck": "reads of memory that nobody wrote",
    "synccheck": "barriers that not all threads reach",
}
BEGIN, END, PLANTED = "the steps begin", "all steps are done", "the planted error"
FINDING = re.compile(
    r"=+ +(?P<what>Invalid __|Misaligned|Out-of-range|(Error|Warning): Race reported|Uninitialized|Barrier error)"
)


def parts(setup: Setup) -> list[Part]:
    """A tool per part."""
    return [Part(f"{tool}: {what}", lambda tool=tool: run(setup, tool)) for tool, what in TOOLS.items()]  # type: ignore[misc]


def run(setup: Setup, tool: str) -> str:
    """How many errors a tool finds in our kernels; any is a failure."""
    setup.require_gpu()
    program = sanitizer()
    script = [sys.executable, "-m", "bench.gpu.sanitizer", *(["--plant"] if tool == "memcheck" else [])]
    command = [program, "--tool", tool, "--print-limit", "50", *script]
    print(" ".join(command), flush=True)
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    with open(setup.folder / "sanitizer.log", "a", encoding="utf-8") as log:
        log.write(f"\n=== {tool}\n{done.stdout}")
    return verdict(tool, done.stdout)


def sanitizer() -> str:
    """Where compute-sanitizer is."""
    candidates = [shutil.which("compute-sanitizer"), "/usr/local/cuda/bin/compute-sanitizer"]
    found = next((path for path in candidates if path and Path(path).exists()), None)
    if found is None:
        raise Skipped("compute-sanitizer is not installed")
    return found


def verdict(tool: str, output: str) -> str:
    """The result in one line, given what the tool and the script have printed.

    Raises:
        Skipped: the tool does not work here: the GPU does not compute under it.
        RuntimeError: the steps did not come to their end.
        AssertionError: there is an error in one of our kernels, or the planted one was not found.
    """
    ours, _, planted = output.partition(f"{PLANTED} begins")
    errors = findings(ours)
    if errors:
        raise AssertionError(f"{len(errors)} errors, the first: {errors[0]}")
    lines = [line.strip(" =") for line in output.splitlines() if line.strip(" =")] or ["no output"]
    if BEGIN not in ours:
        telling = [line for line in lines if re.search(r"not supported|error|fail", line, re.IGNORECASE)]
        raise Skipped(f"it does not work here: {(telling or lines)[0][:200]}")
    if END not in ours:
        raise RuntimeError(f"the script did not come to its end: {lines[-1][:200]}")
    if tool == "memcheck" and not findings(planted):
        raise AssertionError("the planted error was not found, so that finding nothing means nothing")
    return "no error" + (", and the planted one was found" if tool == "memcheck" else "")


def findings(output: str) -> list[str]:
    """What a tool reports of kernels that are not PyTorch's, each in one line, with the lines that follow it."""
    lines = output.splitlines()
    found = []
    for number, line in enumerate(lines):
        if FINDING.match(line):
            block = takewhile(_is_about_the_kernel, lines[number : number + 12])
            text = "; ".join(each.strip(" =") for each in block)
            if "at::" not in text and "void " not in text:
                found.append(text[:300])
    return found


def _is_about_the_kernel(line: str) -> bool:
    """False for the blank line after a finding, and for the host's calls, among which PyTorch's are."""
    return bool(line.strip(" =")) and "backtrace" not in line


def main(arguments: list[str]) -> int:
    """Every launch once; with ``--plant``, a kernel after them that writes past the end of a tensor."""
    torch.ones(8, device="cuda").sum().item()
    print(BEGIN, flush=True)
    status = launches.main()
    torch.cuda.synchronize()
    print(END, flush=True)
    if "--plant" in arguments:
        print(f"{PLANTED} begins", flush=True)
        _plant()
    return status


def _plant() -> None:
    planted.planted_error_kernel[(1,)](torch.empty(64, device="cuda"), SIZE=256)
    torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
