"""Count and model the speed on a GPU without one: `python -m bench static`.

For features of real networks: the bytes that a step moves, the kernels that it launches and the instructions that they
issue, for ours, for the formulas in eager PyTorch, and for `torch.compile` of each; what the compiler makes of our
kernels for several GPUs; and the least time of a step on an H200 by these numbers.

counted    bytes and launches of ours: some classes of one sample in Triton's interpreter, multiplied (`traffic`), and
           the operators around them; of the formulas: arguments and results of each operator, once (`launches`); of
           `torch.compile`: Inductor's own count in its code for an H100 (`inductor`); registers, widths: compiled code
           (`compiled`); instructions: machine code, loops times their trips (`instructions`), of the formulas as
           `torch.compile` has them, for the shapes of one data set
modelled   memory time: bytes at the bandwidth that a copy reaches; issue time: instructions, 4 per clock and SM;
           modelled time: the larger of the two, and a cost per launch
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from .. import results
from ..cases import LAYOUTS, Case, chosen, line_of, real_cases
from ..providers import FORMULAS, OURS, Provider, label
from ..results import result, where
from .compiled import TARGETS, Report, Variant, compile_cases, workers
from .inductor import compiled_step
from .instructions import H200, Issue, issue_of
from .launches import CountedLaunch, Step, step_of
from .traffic import bytes_of_batch

PROVIDERS = (OURS["triton"], *FORMULAS)
INSTRUCTIONS_OF = "CUB"  # compiling all formulas for all data sets takes an hour, and numbers vary little
LAUNCH_MICROSECONDS = 3.0  # from one kernel to the next, without CUDA graphs; 2 to 5 on real systems
_POOLING = {"statistics_kernel", "forward_kernel", "sum_kernel", "combine_kernel", "backward_kernel"}


class Amount(NamedTuple):
    """The needs of one direction of a step.

    Attributes:
        nbytes: read from and written to memory.
        launches: of kernels.
        slots: instructions of warps; 0 where they are not counted.
    """

    nbytes: int
    launches: int
    slots: int

    def microseconds(self) -> dict[str, float]:
        """The least time on an H200, by metric."""
        memory, issue = H200.memory_microseconds(self.nbytes), H200.issue_microseconds(self.slots)
        times = {"memory time": memory, "modelled time": max(memory, issue) + self.launches * LAUNCH_MICROSECONDS}
        return times | ({"issue time": issue} if self.slots else {})


class Count(NamedTuple):
    """The needs of a step."""

    case: Case
    provider: Provider
    forward: Amount
    backward: Amount

    def modes(self) -> dict[str, Amount]:
        """Forward, backward, and their sum."""
        both = Amount(*map(sum, zip(self.forward, self.backward, strict=True)))
        return {"forward": self.forward, "backward": self.backward, "both": both}


def all_cases() -> list[Case]:
    """The real ones, in both dtypes and layouts."""
    return [
        replace(case, dtype=dtype, layout=layout)
        for case in real_cases().values()
        for dtype in (torch.float32, torch.bfloat16)
        for layout in LAYOUTS
    ]


def count(compiling: ProcessPoolExecutor, cases: Sequence[Case]) -> list[Count]:
    """Bytes, launches and instructions of all providers, case by case."""
    compiled = [
        [
            compiling.submit(compiled_step, one.loss, case, one.name != "ours" and case.data_set == INSTRUCTIONS_OF)
            for one in PROVIDERS
        ]
        for case in cases
    ]
    issued = [compiling.submit(issue_of, "sm_90", Variant.of(case)) for case in cases]
    with workers(interpret=True) as interpreting:
        eager = list(interpreting.map(_count_eager, cases))
    counts = []
    for case, (pooled, steps), of_case, issue in zip(cases, eager, compiled, issued, strict=True):
        own = pooled, slots_of(issue.result())
        compiled_ones = [replace(one, compiled=True) for one in PROVIDERS]
        all_steps = zip([*PROVIDERS, *compiled_ones], [*steps, *(step.result() for step in of_case)], strict=True)
        counts += [count_of(case, one, step, *own) for one, step in all_steps]
    return counts


def count_of(case: Case, provider: Provider, step: Step, nbytes: Sequence[int], slots: Sequence[int]) -> Count:
    """The needs of a step, with bytes and instructions of our own pooling in the place of those of its launches."""

    def amount(launches: list[CountedLaunch], nbytes: int, slots: int) -> Amount:
        others = [launch for launch in launches if launch.name not in _POOLING]
        if len(others) < len(launches):
            others.append(CountedLaunch("pooling", nbytes, slots))
        return Amount(sum(one.nbytes for one in others), len(launches), sum(one.slots for one in others))

    return Count(case, provider, amount(step.forward, nbytes[0], slots[0]), amount(step.backward, nbytes[1], slots[1]))


def slots_of(issued: Iterable[Issue]) -> tuple[int, int]:
    """Instructions of the pooling, forward and backward."""
    forward = backward = 0
    for kernel in issued:
        if kernel.kernel.endswith(".backward"):
            backward += kernel.slots.total()
        elif kernel.kernel != "masks.mask":
            forward += kernel.slots.total()
    return forward, backward


def _count_eager(case: Case) -> tuple[tuple[int, int], list[Step]]:
    """The bytes of our kernels, and the step of each provider; in a worker that interprets."""
    return bytes_of_batch(case), [step_of(one.loss, case) for one in PROVIDERS]


def rows_of_counts(counts: Iterable[Count]) -> Iterator[dict[str, Any]]:
    """Traffic, launches and instructions, and the time that they take at least."""
    for one in counts:
        for mode, amount in one.modes().items():
            facts = one.case.facts | one.provider.facts | {"mode": mode}
            numbers = {"traffic": amount.nbytes, "launches": amount.launches}
            for metric, value in numbers.items():
                yield result(metric, value, "counted", device="sm_90" if one.provider.compiled else "GPU", **facts)
            if amount.slots:
                yield result("issue slots", amount.slots, "counted", device="sm_90", **facts)
            for metric, value in amount.microseconds().items():
                yield result(metric, value, "modelled", device=H200.name, **facts)


def rows_of_kernels(reports: Iterable[Report], issued: dict[tuple[str, Case], list[Issue]]) -> Iterator[dict[str, Any]]:
    """Registers, widths and instructions of our compiled kernels; those of the mask once per shape."""
    for report in reports:
        is_of_mask = report.kernel == "masks.mask"
        cases = {
            replace(case, dtype=torch.float32, layout="contiguous") if is_of_mask else case for case in report.cases
        }
        mode = "backward" if report.kernel.endswith("backward") else "forward"
        of = OURS["triton"].facts | {"kernel": report.kernel, "mode": mode, "device": report.target}
        for case in sorted(cases, key=str):
            for metric, value in _facts(report).items():
                yield result(metric, value, "counted", **of, **case.facts)
            for kernel in issued.get((report.target, case), []):
                if kernel.kernel == report.kernel:
                    yield result("issue slots", sum(kernel.slots.values()), "counted", **of, **case.facts)


def _facts(report: Report) -> dict[str, int]:
    """Numbers of a compiled kernel, by metric."""
    spills = report.spills + report.scalar_spills  # AMD's; NVIDIA's compiler spills to the stack
    facts = {"registers": report.registers, "stack": report.stack, "spills": spills, "shared": report.shared}
    for metric, what in (("load width", "load features"), ("store width", "store grad")):
        if widths := report.widths(what):
            facts[metric] = min(widths)
    return facts


def table_of_steps(rows: pd.DataFrame, cases: Iterable[Case]) -> Iterator[str]:
    """Lines of text: the needs of each provider's step, case by case."""
    columns = {"launches": "launches", "traffic": "bytes / |F|"}
    times = {"memory time": "bytes, µs", "issue time": "issue, µs", "modelled time": "model, µs"}
    for case in cases:
        yield line_of(case)
        yield f"  {'forward + backward':26}" + "".join(head.rjust(15) for head in [*columns.values(), *times.values()])
        for provider, of in where(rows, kernel="", **case.facts).groupby(results.PROVIDER, sort=False):
            values = of.set_index(["metric", "mode"]).value.to_dict()
            line = f"  {label(*provider):26}"
            for metric in columns:
                numbers = [values[metric, mode] for mode in ("forward", "backward")]
                texts = [f"{n:.0f}" if metric == "launches" else f"{n / case.nbytes:.2f}" for n in numbers]
                line += " + ".join(texts).rjust(15)
            found = [values.get((metric, "both")) for metric in times]
            yield line + "".join(("–" if value is None else f"{value:.1f}").rjust(15) for value in found)
        yield ""


def table_of_kernels(rows: pd.DataFrame) -> str:
    """Text: a line per kernel and kind of features, with the range of each number over the shapes."""
    by = ["kernel", "dtype", "layout", "device"]

    def spread(values: pd.Series[float]) -> str:
        return "–".join(dict.fromkeys((f"{values.min():.0f}", f"{values.max():.0f}")))

    ours = where(rows[rows.kernel != ""], provider="ours")
    return ours.pivot_table("value", by, "metric", spread, fill_value="").to_string()


def main(options: argparse.Namespace) -> None:
    """Count, compile and model; print a table, and write the results of the whole."""
    if options.launches or options.traffic:
        os.environ["TRITON_INTERPRET"] = "1"
        from . import interpreter, launches, traffic

        interpreter.behave_like_a_gpu()
        launches.main() if options.launches else traffic.main(options.cases)
        return
    cases = chosen(all_cases(), options.cases)
    print(f"{results.versions()}; commit {results.run_facts()['commit']}")
    print(f"{len(cases)} cases: {'compiling' if options.kernels else 'counting, generating and compiling code'}")
    variants = [Variant.of(case) for case in cases]
    nvidia = [target for target in TARGETS if target.startswith("sm_")]
    with workers() as pool:
        rows = [] if options.kernels else list(rows_of_counts(count(pool, cases)))
        keys = [(target, variant) for target in nvidia for variant in variants]
        issued = dict(zip(keys, pool.map(issue_of, *zip(*keys, strict=True)), strict=True))
        rows += rows_of_kernels(compile_cases(pool, variants, TARGETS), issued)
    table = results.frame(rows)
    print(table_of_kernels(table))
    if options.kernels:
        return
    print(*table_of_steps(table, cases), sep="\n")
    is_whole = len(cases) == len(all_cases())
    output = options.output or (results.FOLDER if is_whole else Path("runs/bench")) / "static.csv"
    results.write(output, table)
    print(f"modelled: nobody has measured these µs. {len(table)} results in {output}")
