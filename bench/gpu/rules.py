"""Stage 6: launch rules. Other launch parameters beside the chosen ones, for the shapes of CUB and for extreme ones.

Each alternative changes one number of the chosen launches. It must give the same results; its time is that of the
kernels of `channel_pool` alone, replayed from a CUDA graph, and all alternatives take turns.
"""

from __future__ import annotations

import statistics
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from mcl_triton import ChannelGroups, channel_pool
from mcl_triton.kernels import host
from mcl_triton.kernels.launch import Launch, choose
from reference.training.environment import usable_cores

from ..cases import Case, line_of, quick_cases
from ..measure.timing import Call, Clock, clocks, rotation
from ..providers import Inputs
from .stage import Part, Setup

TURNS = 20
CHOSEN = "chosen"
MOST_TIES = 1e-4  # of the elements
Change = Callable[[Launch], Launch]

EXTREMES = {
    "few large groups, 14×14": Case(8, ChannelGroups.uniform(7, 340), 14),
    "few large groups, 7×7": Case(8, ChannelGroups.uniform(7, 340), 7, torch.bfloat16, "channels_last"),
    "one class": Case(16, ChannelGroups.uniform(1, 2048), 14, torch.bfloat16, "channels_last"),
    "one large class among small ones": Case(16, ChannelGroups([2000, *[1] * 48]), 14, torch.bfloat16, "channels_last"),
    "large maps": Case(16, ChannelGroups.uniform(10, 6), 112),
    "large maps, channels_last": Case(16, ChannelGroups.uniform(10, 6), 112, torch.bfloat16, "channels_last"),
    "many classes of one channel": Case(2, ChannelGroups.uniform(100_000, 1), 7),
}
STAND_INS = {  # for a CPU
    f"interpreted, {layout}": Case(1, ChannelGroups.split(14, 4), 5, layout=layout)
    for layout in ("contiguous", "channels_last")
}


class Pooled(NamedTuple):
    """Class and diversity scores, and the leaf that they were computed of."""

    scores: Tensor
    diversity: Tensor
    leaf: Tensor


def parts(setup: Setup) -> list[Part]:
    """All compilation, then a part per shape."""
    cases = {line_of(case): case for case in quick_cases()} | EXTREMES if setup.is_gpu else STAND_INS
    return [
        Part("compile", lambda: compile_all(setup, cases)),
        *(Part(name, lambda case=case: compare(setup, case)) for name, case in cases.items()),  # type: ignore[misc]
    ]


def alternatives() -> dict[str, Change]:
    """What is changed, by name."""

    def scaled(name: str, numerator: int, denominator: int, least: int, most: int) -> Change:
        def change(launch: Launch) -> Launch:
            number = launch.constants.get(name, 0)
            scaled = number * numerator // denominator
            if not number or not least <= scaled <= most:
                return launch
            return launch._replace(constants={**launch.constants, name: scaled})

        return change

    return {
        "half the warps": scaled("num_warps", 1, 2, 1, 16),
        "twice the warps": scaled("num_warps", 2, 1, 1, 16),
    }


@contextmanager
def launched_by(change: Change) -> Iterator[list[Launch]]:
    """Within the block kernels are launched as changed; the launches that were chosen anew."""
    launches = []

    def chosen(*arguments: Any) -> Launch:
        launches.append(change(choose(*arguments)))
        return launches[-1]

    with patch.object(host, "choose", chosen):
        host.forget_launches()
        try:
            yield launches
        finally:
            host.forget_launches()


def pool(inputs: Inputs) -> Pooled:
    """The reductions of our kernels."""
    leaf = inputs.features.detach().requires_grad_()
    return Pooled(*channel_pool(leaf, inputs.case.groups, inputs.mask, backend="triton"), leaf)


def gradient(pooled: Pooled) -> Tensor:
    """dF, given the gradients of a loss that has every score's value as its weight."""
    scores = pooled.scores.detach(), pooled.diversity.detach()
    (grad,) = torch.autograd.grad([pooled.scores, pooled.diversity], pooled.leaf, scores)
    return grad


CALLS = {"forward": Call(pool), "backward": Call(gradient, prepare=pool)}


def compile_all(setup: Setup, cases: dict[str, Case]) -> str:
    """Launch every alternative for each case once, several cases at a time, to fill Triton's cache."""
    setup.require_gpu()
    with ProcessPoolExecutor(max(1, min(usable_cores() // 2, 8)), get_context("spawn")) as processes:
        runs = [processes.submit(_compile, setup.device, case) for case in cases.values()]
        failed = [f"{name}: {run.exception()}" for name, run in zip(cases, runs, strict=True) if run.exception()]
    print(*failed, sep="\n")
    if len(failed) == len(cases):
        raise RuntimeError(f"nothing could be compiled: {failed[0]}")
    return f"{len(cases) - len(failed)} of {len(cases)} shapes compiled"


def _compile(device: torch.device, case: Case) -> None:
    inputs = Inputs.of(case, device)
    for change in {CHOSEN: _unchanged, **alternatives()}.values():
        with launched_by(change):
            gradient(pool(inputs))
    torch.cuda.synchronize()


def _unchanged(launch: Launch) -> Launch:
    return launch


def compare(setup: Setup, case: Case) -> str:
    """The fastest alternative beside the chosen launch; prints all of them."""
    inputs = [Inputs.of(case, setup.device, seed) for seed in range(rotation(case, setup.device))]
    with launched_by(_unchanged) as launches:
        truth = _results(inputs[0])
        timed = {CHOSEN: _clocks(setup, inputs, CHOSEN)}
    chosen = list(launches)
    for launch in chosen:
        print(f"  {launch.kernels} {launch.constants}, {len(launch.cuts) - 1} programs per sample")
    wrong = []
    for name, change in alternatives().items():
        if all(change(launch) == launch for launch in chosen):
            continue
        try:
            with launched_by(change):
                _require_equal(truth, _results(inputs[0]))
                timed[name] = _clocks(setup, inputs, name)
        except Exception as error:
            traceback.print_exc()
            wrong.append(f"{name}: {type(error).__name__}")
            if setup.is_gpu:
                torch.cuda.synchronize()  # raises where nothing more can be measured in this process
    milliseconds = _medians(timed, TURNS if setup.is_gpu else 1)
    for name, of in milliseconds.items():
        print(f"  {name:24}", "  ".join(f"{mode} {1e3 * time:9.2f} µs" for mode, time in of.items()))
    text = summary(milliseconds) if setup.is_gpu else f"{', '.join(timed)}: all agree"
    return text + (f"; not usable: {', '.join(wrong)}" if wrong else "")


def _results(inputs: Inputs) -> list[Tensor]:
    pooled = pool(inputs)
    return [pooled.scores.detach(), pooled.diversity.detach(), gradient(pooled)]


def _require_equal(expected: list[Tensor], found: list[Tensor]) -> None:
    """Raise where results differ by more than the order of sums explains, which may decide a tie now and then."""
    for first, second in zip(expected, found, strict=True):
        tolerance = 64 * torch.finfo(first.dtype).eps
        differs = ~((second - first).abs() <= tolerance * (first.abs() + first.abs().max()))  # true for NaN
        if (share := differs.double().mean().item()) > MOST_TIES:
            raise AssertionError(f"{share:.2%} of the results differ from those of the chosen launch")


def _clocks(setup: Setup, inputs: list[Inputs], name: str) -> dict[str, Clock]:
    """By mode: the replay of a CUDA graph on a GPU; the host's clock elsewhere, which says nothing about a GPU."""
    metric = "kernel" if setup.is_gpu else "wall"
    found = {mode: clocks(call, inputs, setup.device, 3 if setup.is_gpu else 0, name) for mode, call in CALLS.items()}
    return {mode: of[metric] for mode, of in found.items() if metric in of}


def _medians(timed: dict[str, dict[str, Clock]], turns: int) -> dict[str, dict[str, float]]:
    """Milliseconds by alternative and mode; all of them are called once per turn."""
    seconds: dict[tuple[str, str], list[float]] = {(name, mode): [] for name, of in timed.items() for mode in of}
    for turn in range(turns):
        for (name, mode), times in seconds.items():
            times.append(timed[name][mode](turn))
    return {name: {mode: 1e3 * statistics.median(seconds[name, mode]) for mode in of} for name, of in timed.items()}


def summary(milliseconds: dict[str, dict[str, float]]) -> str:
    """The chosen launch and the best alternative of each mode, in one line."""
    texts = []
    for mode, chosen in milliseconds[CHOSEN].items():
        others = {name: of[mode] for name, of in milliseconds.items() if name != CHOSEN and mode in of}
        text = f"{mode} {1e3 * chosen:.2f} µs"
        if others:
            best = min(others, key=others.__getitem__)
            text += f" (best of {len(others)} others: {best} {1e3 * others[best]:.2f} µs, {others[best] / chosen:.2f}×)"
        texts.append(text)
    return "; ".join(texts)
