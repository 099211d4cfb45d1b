"""Stage 4: time, bandwidth and memory of the loss against everyone else, for a few shapes; `all_times` has the others.

Everything that torch.compile has to compile is compiled first, in parallel: the measurements then find it in its cache.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from unittest.mock import patch

import torch

from mcl_triton import ChannelGroups
from reference.training.environment import usable_cores

from .. import results
from ..cases import Case, line_of, quick_cases
from ..measure import compare
from ..providers import FORMULAS, OURS, Inputs, Provider
from .stage import Part, Setup, Trouble, apart

FIRST = ("ResNet50, 448 pixels", "from scratch", "VGG16 or ResNet18, 224 pixels")
STAND_IN = Case(2, ChannelGroups.split(14, 4), 5)  # for a CPU
AT_A_TIME = 5
TURNS = 50
WARM_UP = 10


def parts(setup: Setup) -> list[Part]:
    """Those of CUB: the few that differ most come first."""
    return parts_for(setup, sorted(quick_cases(), key=_place))


def _place(case: Case) -> int:
    return next((place for place, words in enumerate(FIRST) if words in case.name), len(FIRST))


def parts_for(setup: Setup, cases: Sequence[Case]) -> list[Part]:
    """For a few cases at a time, the compilation and then a part per case; a small case on a CPU."""
    if not setup.is_gpu:
        cases = [STAND_IN]
    found = []
    for first in range(0, len(cases), AT_A_TIME):
        some = cases[first : first + AT_A_TIME]
        found.append(Part(f"compile {first + 1} to {first + len(some)}", lambda some=some: compile_all(setup, some)))  # type: ignore[misc]
        found += [Part(line_of(case), lambda case=case: measure(setup, case)) for case in some]  # type: ignore[misc]
    return found


def everyone(device: torch.device) -> list[Provider]:
    """Ours, the official and the plain formula; on a GPU each compiled as well."""
    if device.type != "cuda":
        return [OURS["eager"], *FORMULAS]
    plain = [OURS["triton"], *FORMULAS]
    return plain + [replace(one, loss=torch.compile(one.loss), compiled=True) for one in plain]


def compile_all(setup: Setup, cases: Sequence[Case]) -> str:
    """Take a step of each compiled provider for each case, many at a time."""
    setup.require_gpu()
    jobs = [(case, number) for case in cases for number, one in enumerate(everyone(setup.device)) if one.compiled]
    processes = max(1, min(usable_cores() // 2, 8, len(jobs)))
    with patch.dict(os.environ, TORCHINDUCTOR_COMPILE_THREADS="2"):
        found = apart([(_compile, setup.device, *job) for job in jobs], processes)
    wrong = [one for one in found if isinstance(one, Trouble)]
    if len(wrong) == len(jobs):
        raise RuntimeError(f"nothing could be compiled: {wrong[0]}")
    return f"{len(jobs) - len(wrong)} of {len(jobs)} compiled by {processes} processes"


def _compile(device: torch.device, case: Case, number: int) -> None:
    Inputs.of(case, device).step(everyone(device)[number].loss)
    torch.cuda.synchronize()


def measure(setup: Setup, case: Case) -> str:
    """Everything about a case, in a process of its own; its rows are written when they are all there."""
    (rows,) = apart([(_measure, setup.device, case, TURNS if setup.is_gpu else 2)])
    if isinstance(rows, Trouble):
        raise RuntimeError(str(rows))
    results.append(setup.results, rows)
    return summary(rows, case.nbytes)


def _measure(device: torch.device, case: Case, turns: int) -> compare.Rows:
    return compare.measure(case, everyone(device), device, turns, warm_up=WARM_UP if device.type == "cuda" else 1)


def summary(rows: compare.Rows, nbytes: int) -> str:
    """Medians of a whole step in one line, and the bandwidth of ours beside that of a copy; prints all medians.

    Args:
        rows: of one case.
        nbytes: |F|. A step moves at least 3 |F|, a copy 2 |F|.
    """
    clock = "kernel" if any(row["metric"] == "kernel" for row in rows) else "wall"
    step: dict[str, float] = {}
    for row in rows:
        who = compare.label(row["provider"], row["backend"], row["compiled"])
        if row["metric"] in ("kernel", "operator", "wall", "host", "peak"):
            print(f"  {who:28}{row['mode']:10}{row['metric']:10}{row['value']:12.5g} {row['unit']}")
        if (row["metric"], row["mode"]) == (clock, "both"):
            step[who] = row["value"]
    wrong = [row["provider"] for row in rows if row["metric"] == "wrong"]
    ours = next((who for who in step if who.startswith("ours")), None)
    texts = [f"{clock} ms: " + ", ".join(f"{who} {value:.4g}" for who, value in step.items())]
    if ours is not None and "copy" in step:
        of_ours, of_copy = 3 * nbytes / step[ours] / 1e6, 2 * nbytes / step["copy"] / 1e6
        texts.append(f"{of_ours:.0f} GB/s where a copy has {of_copy:.0f}")
    return "; ".join(texts + [f"wrong: {', '.join(wrong)}"] * bool(wrong))
