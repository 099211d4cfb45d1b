"""What the size of the eager path's blocks costs and gains: `python -m bench blocks`.

Lowest of several interleaved measurements of the forward and the backward operator, in milliseconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from unittest.mock import patch

import torch

from mcl_triton import blocks, eager, sample_channel_mask
from mcl_triton.groups import flat_runs

from .. import results
from ..cases import Case, quick_cases
from .compare import device_name

MIB = (0.25, 0.5, 1, 2, 4, 8, 16, 64)


def sweep(case: Case, turns: int) -> dict[float, tuple[float, float]]:
    """Seconds of forward and backward, by the block's size in MiB."""
    features = case.features()
    mask = sample_channel_mask(case.groups)
    runs = flat_runs(case.groups)
    grads = [torch.randn(case.batch, case.groups.num_classes) for _ in range(2)]
    times: dict[float, list[tuple[float, float]]] = {mib: [] for mib in MIB}
    for _ in range(turns):
        for mib in MIB:
            with patch.object(blocks, "BLOCK_BYTES", int(mib * 2**20)):
                forward = _seconds(lambda: eager.forward(features, runs, mask))
                backward = _seconds(lambda: eager.backward(features, runs, mask, *grads))
            times[mib].append((forward, backward))
    return {mib: (min(forward for forward, _ in of), min(backward for _, backward in of)) for mib, of in times.items()}


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main(arguments: argparse.Namespace) -> None:
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        print(f"{device_name(torch.device('cpu'))}; {results.versions()}; forward + backward, ms")
        print("".ljust(66) + "".join(f"{mib:g} MiB".rjust(14) for mib in MIB))
        for case in quick_cases():
            cells = [
                f"{1e3 * forward:.1f} + {1e3 * backward:.1f}"
                for forward, backward in sweep(case, arguments.turns).values()
            ]
            print(str(case).ljust(66) + "".join(cell.rjust(14) for cell in cells), flush=True)
