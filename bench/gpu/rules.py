"""Stage 6: launch rules. Other launch parameters beside the chosen ones, for the shapes of CUB and for extreme ones.

Each alternative changes the tables or one limit of the rules. It must give the same results; its time is that of the
kernels of `channel_pool` alone, replayed from a CUDA graph, and all alternatives take turns.
"""

from __future__ import annotations

import statistics
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from mcl_triton import ChannelGroups, channel_pool
from mcl_triton.kernels import host, launch
from mcl_triton.kernels.launch import Tile
from reference.training.environment import usable_cores

from ..cases import Case, line_of, quick_cases
from ..measure.timing import Call, Clock, clocks, rotation
from ..providers import Inputs
from .stage import Part, Setup, Trouble, apart

TURNS = 20
CHOSEN = "chosen"
MOST_TIES = 1e-4  # of the elements
MOST_WARPS = 32
LIMITS = ("ENOUGH_WARPS", "ENOUGH_PROGRAMS", "WORTH_SPLITTING", "LARGEST_SIDE_BY_SIDE")
Change = dict[str, Any]

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


def tiles() -> dict[str, Any]:
    """The tiles of the rules by name: single ones, and tables of them."""
    return {
        name: value
        for name, value in vars(launch).items()
        if isinstance(value, Tile)
        or (isinstance(value, dict) and all(isinstance(tile, Tile) for tile in value.values()))
    }


def alternatives() -> dict[str, Change]:
    """Other rules, by what is different: each is names in `launch` with other values."""

    def every_tile(**factors: float) -> Change:
        def scaled(tile: Tile) -> Tile:
            sizes = {name: int(getattr(tile, name) * factor) for name, factor in factors.items()}
            return tile._replace(**sizes) if all(sizes.values()) and sizes.get("warps", 1) <= MOST_WARPS else tile

        return {
            name: {limit: scaled(tile) for limit, tile in value.items()} if isinstance(value, dict) else scaled(value)
            for name, value in tiles().items()
        }

    others = {
        "half the warps": every_tile(warps=0.5),
        "twice the warps": every_tile(warps=2),
        "half the rows": every_tile(rows=0.5),
        "twice the rows": every_tile(rows=2),
        "half the rows and warps": every_tile(rows=0.5, warps=0.5),
        "twice the rows and warps": every_tile(rows=2, warps=2),
        "half the columns": every_tile(columns=0.5, layers=2),
        "twice the columns": every_tile(columns=2, layers=0.5),
    }
    for name in filter(vars(launch).__contains__, LIMITS):
        others[f"{name} / 4"] = {name: max(1, getattr(launch, name) // 4)}
        others[f"{name} · 4"] = {name: getattr(launch, name) * 4}
    return others


@contextmanager
def launched_by(change: Change) -> Iterator[list[Any]]:
    """Within the block kernels are launched by the changed rules; yields the launches that they choose."""
    chosen: list[Any] = []

    def recorded(choose: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            chosen.append(choose(*arguments, **options))
            return chosen[-1]

        return call

    rules = {name: choose for name, choose in vars(host).items() if name.startswith("choose")}
    with ExitStack() as stack:
        stack.callback(_forget)  # when the rules are as they were
        for name, value in change.items():
            stack.enter_context(patch.object(launch, name, value))
        for name, choose in rules.items():
            stack.enter_context(patch.object(host, name, recorded(choose)))
        _forget()
        yield chosen


def _forget() -> None:
    for function in vars(launch).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()
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
    found = apart([(_compile, setup.device, case) for case in cases.values()], max(1, min(usable_cores() - 2, 14)))
    wrong = [one for one in found if isinstance(one, Trouble)]
    if len(wrong) == len(cases):
        raise RuntimeError(f"nothing could be compiled: {wrong[0]}")
    return f"{len(cases) - len(wrong)} of {len(cases)} shapes compiled"


def _compile(device: torch.device, case: Case) -> None:
    inputs = Inputs.of(case, device)
    for change in [{}, *alternatives().values()]:
        try:
            with launched_by(change):
                gradient(pool(inputs))
        except Exception:  # `compare` meets it again, and reports it
            continue
    torch.cuda.synchronize()


def compare(setup: Setup, case: Case) -> str:
    """The fastest alternative beside the chosen launch; prints all of them."""
    inputs = [Inputs.of(case, setup.device, seed) for seed in range(rotation(case, setup.device))]
    with launched_by({}) as chosen:
        truth = _results(inputs[0])
        usual = list(chosen)
        timed = {CHOSEN: _clocks(setup, inputs, CHOSEN)}
    print(*(f"  {launch}" for launch in usual), sep="\n")
    wrong, same = [], []
    for name, change in alternatives().items():
        try:
            with launched_by(change) as others:
                results = _results(inputs[0])
                if others == usual:
                    same.append(name)
                    continue
                _require_equal(truth, results)
                timed[name] = _clocks(setup, inputs, name)
        except Exception as error:
            traceback.print_exc()
            wrong.append(f"{name}: {type(error).__name__}")
            if setup.is_gpu:
                torch.cuda.synchronize()  # raises where nothing more can be measured in this process
    print(f"  the same as chosen: {', '.join(same) or 'none'}")
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
