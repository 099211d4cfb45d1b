"""What can be known about speed without a GPU: `python -m bench static`.

For features of real networks: the bytes that a step moves, the kernels that it launches and the instructions that they
issue, for ours, for the formulas in eager PyTorch, and for `torch.compile` of each; what the compiler makes of our
kernels for several GPUs; and the least time of a step by these numbers.

counted    ours: some classes of one sample in Triton's interpreter, multiplied (`traffic`), and the operators around
           them; the formulas: what each operator is given and returns, once (`launches`); `torch.compile`: Inductor's
           own count in its code for an H100 (`inductor`); registers and widths: compiled code (`compiled`)
modelled   memory time, issue time, modelled time (`model`)
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
from .launches import Launch, Step, step_of
from .model import GPUS, memory_ms, step_ms
from .traffic import bytes_of_batch

PROVIDERS = (OURS["triton"], *FORMULAS)
_POOLING = {"forward_kernel", "backward_kernel", "channel_pool", "channel_pool_backward"}  # eager's names, compiled's


class Amount(NamedTuple):
    """The needs of one direction of a step."""

    nbytes: int
    launches: int


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
    """Bytes and launches of everyone, case by case."""
    compiled = [
        [(replace(one, compiled=True), compiling.submit(compiled_step, one.loss, case)) for one in PROVIDERS]
        for case in cases
    ]
    with workers(interpret=True) as interpreting:
        eager = list(interpreting.map(_count_eager, cases))
    counts = []
    for case, (pooled, steps), of_case in zip(cases, eager, compiled, strict=True):
        by_provider = list(zip(PROVIDERS, steps, strict=True)) + [(one, step.result()) for one, step in of_case]
        counts += [count_of(case, one, step, pooled) for one, step in by_provider]
    return counts


def count_of(case: Case, provider: Provider, step: Step, pooled: tuple[int, int]) -> Count:
    """Bytes and launches of a step, with the bytes of our own kernels in their place."""

    def amount(launches: list[Launch], pooled: int) -> Amount:
        nbytes = sum(pooled if launch.name in _POOLING else launch.nbytes for launch in launches)
        return Amount(nbytes, len(launches))

    return Count(case, provider, amount(step.forward, pooled[0]), amount(step.backward, pooled[1]))


def _count_eager(case: Case) -> tuple[tuple[int, int], list[Step]]:
    """The bytes of our kernels, and everyone's step; in a worker that interprets."""
    return bytes_of_batch(case), [step_of(one.loss, case) for one in PROVIDERS]


def rows_of_counts(counts: Iterable[Count]) -> Iterator[dict[str, Any]]:
    """Traffic and launches, and the time that they take at least."""
    for one in counts:
        facts = one.case.facts | one.provider.facts
        for mode, amount in one.modes().items():
            device = "sm_90" if one.provider.compiled else "GPU"
            yield result("traffic", amount.nbytes, "counted", mode=mode, device=device, **facts)
            yield result("launches", amount.launches, "counted", mode=mode, device=device, **facts)
        for name, gpu in GPUS.items():
            both, of = one.modes()["both"], {"mode": "both", "device": name, **facts}
            yield result("memory time", memory_ms(gpu, both.nbytes), "modelled", **of)
            yield result("modelled time", step_ms(gpu, both.nbytes, 0, both.launches), "modelled", **of)


def rows_of_kernels(reports: Iterable[Report]) -> Iterator[dict[str, Any]]:
    """What the compiler makes of our kernels; that of the mask once per shape."""
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


def _facts(report: Report) -> dict[str, int]:
    """Numbers of a compiled kernel, by metric."""
    spills = report.spills + report.scalar_spills  # AMD's; NVIDIA's compiler spills to the stack
    facts = {"registers": report.registers, "stack": report.stack, "spills": spills, "shared": report.shared}
    for metric, what in (("load width", "load features"), ("store width", "store grad")):
        if widths := report.widths(what):
            facts[metric] = min(widths)
    return facts


def table_of_steps(rows: pd.DataFrame, cases: Iterable[Case]) -> Iterator[str]:
    """Lines of text: the needs of everyone's step, case by case."""
    for case in cases:
        yield line_of(case)
        yield f"  {'forward + backward':28}{'launches':>12}{'bytes / |F|':>16}" + "".join(f"{gpu:>22}" for gpu in GPUS)
        for provider, of in where(rows, kernel="", **case.facts).groupby(results.PROVIDER, sort=False):
            values = of.set_index(["metric", "mode", "device"]).value
            line = f"  {label(*provider):28}"
            for metric, unit, width in (("launches", 1, 12), ("traffic", case.nbytes, 16)):
                numbers = [values[metric, mode].item() / unit for mode in ("forward", "backward")]
                line += " + ".join(f"{n:.0f}" if unit == 1 else f"{n:.2f}" for n in numbers).rjust(width)
            yield line + "".join(f"{1e3 * values['modelled time', 'both', gpu]:12.0f} µs (model)" for gpu in GPUS)
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
    variants = [Variant(case.batch, case.groups, case.side, case.dtype, case.layout) for case in cases]
    with workers() as pool:
        rows = [] if options.kernels else list(rows_of_counts(count(pool, cases)))
        rows += rows_of_kernels(compile_cases(pool, variants, TARGETS))
    table = results.frame(rows)
    print(table_of_kernels(table))
    if options.kernels:
        return
    print(*table_of_steps(table, cases), sep="\n")
    is_whole = len(cases) == len(all_cases())
    output = options.output or (results.FOLDER if is_whole else Path("runs/bench")) / "static.csv"
    results.write(output, table)
    print(f"modelled: nobody has measured these µs. {len(table)} results in {output}")
