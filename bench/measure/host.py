"""The host time of a step: `python -m bench host`, without a GPU.

Eager PyTorch is bound by the host wherever launching takes longer than computing. Here the driver is replaced by one
that does nothing, see `stub_driver`, and all tensors are tiny ones of the CPU. So the time of our loss is that of
PyTorch, our code and Triton's launcher. The time of the others is that of PyTorch and of their operators on a few
numbers. On a GPU each of these operators is a launch besides, which is left out in their favour.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import product
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

import mcl_triton.checks
import mcl_triton.loss
from mcl_triton import ChannelGroups, mc_loss
from reference.training.environment import environment

from ..cases import Case
from ..providers import Inputs, Loss, official, plain
from . import stub_driver

CASES = {"uniform": Case(2, ChannelGroups.uniform(4, 3), 2), "ragged": Case(2, ChannelGroups.split(14, 4), 2)}


def ours(features: Tensor, targets: Tensor, mask: Tensor, groups: ChannelGroups) -> Tensor:
    """`mc_loss` with the mask given."""
    return mc_loss(features, targets, groups, mask=mask, backend="triton").loss


def ours_drawn(features: Tensor, targets: Tensor, mask: Tensor, groups: ChannelGroups) -> Tensor:
    """`mc_loss` with the mask drawn."""
    return mc_loss(features, targets, groups, backend="triton").loss


def plain_drawn(features: Tensor, targets: Tensor, mask: Tensor, groups: ChannelGroups) -> Tensor:
    """The plain formula with the mask drawn, as `sample_channel_mask` describes it."""
    parts = [torch.rand(of).argsort(1).argsort(1) >= of[1] // 2 for of in groups.runs]
    return plain(features, targets, torch.cat([part.flatten() for part in parts]), groups)


LOSSES: dict[str, dict[str, Loss]] = {  # by how the mask comes; the first is what the others are compared with
    "given": {"plain": plain, "official": official, "ours": ours},
    "drawn": {"plain": plain_drawn, "ours": ours_drawn},
}


def step_times(steps: dict[str, Callable[[], object]], rounds: int, repeats: int) -> dict[str, list[float]]:
    """Microseconds per step of each, round by round; within a round each takes its turn."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(repeats):
                step()
            times[name].append((time.perf_counter() - start) / repeats * 1e6)
    return times


def steps_of(case: Case, losses: dict[str, Loss]) -> dict[str, Callable[[], object]]:
    """Forward and backward of each loss, with the same features, targets and mask."""
    inputs = Inputs.of(case)

    def step(loss: Loss) -> Callable[[], object]:
        return lambda: inputs.step(loss)

    steps = {name: step(loss) for name, loss in losses.items()}
    for run in steps.values():  # compiles, and fills what is kept
        for _ in range(20):
            run()
    return steps


def main(options: argparse.Namespace) -> int:
    """Measure, and print the medians."""
    if not stub_driver.is_possible():
        print("This needs a C compiler, and a machine without an NVIDIA driver.")
        return 1
    torch.set_num_threads(1)
    torch.cuda.is_available()  # before the driver seems to be there: PyTorch keeps its answer
    machine = environment()
    print(
        f"{machine['cpu']}; Python {machine['python']}, torch {machine['torch']}, triton {version('triton')}. "
        "No GPU took part: the driver does nothing."
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(mcl_triton.loss, "uses_kernels", _kernels_if_asked),
        patch.object(mcl_triton.checks, "values_are_readable", lambda: False),  # as on a GPU, no value is read
    ):
        library = stub_driver.install(Path(folder))
        print(f"{'groups':10}{'mask':8}{'loss':10}{'µs per step':>12}{'of plain':>10}{'Triton launches':>17}")
        for (kind, case), (mask, losses) in product(CASES.items(), LOSSES.items()):
            steps = steps_of(case, losses)
            times = step_times(steps, options.turns, options.repeats)
            for name, of_turns in times.items():
                before = library.stub_launches()
                steps[name]()
                launches = library.stub_launches() - before
                ratio = statistics.median(one / other for one, other in zip(of_turns, times["plain"], strict=True))
                median = statistics.median(of_turns)
                print(f"{kind:10}{mask:8}{name:10}{median:12.1f}{ratio:10.2f}{launches:17}")
    return 0


def _kernels_if_asked(backend: str, device: torch.device) -> bool:
    return backend == "triton"
