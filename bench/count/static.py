"""What can be known about speed without a GPU: `python -m bench static`.

For features of real networks: the bytes that a step moves and the kernels that it launches, by ours, by the formulas in
eager PyTorch, and by `torch.compile` of each; what became of our kernels on several GPUs, compiled for them; and the
least time that these bytes and launches take at a GPU's published bandwidth.

counted    ours: some classes of one sample in Triton's interpreter, multiplied (`traffic`), and the operators around
           them; the formulas: what each operator is given and returns, once (`launches`)
compiled   registers, stack, shared memory and widths of our kernels (`compiled`); kernels of `torch.compile` and their
           bytes, by Inductor's own count in code for an H100 (`inductor`)
modelled   occupancy, by NVIDIA's limits (`occupancy`); roofline: bytes / bandwidth + launches × a cost (`roofline`)
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch

from .. import results
from ..cases import LAYOUTS, Case, name_of, real_cases
from ..providers import Loss, official, ours_triton, plain
from ..results import Result
from .compiled import TARGETS, Report, Variant, compile_cases, workers
from .inductor import DEVICE as INDUCTOR
from .inductor import compiled_step
from .launches import Launch, Step, step_of
from .occupancy import SHARED_BYTES, occupancy
from .roofline import BANDWIDTHS, milliseconds
from .traffic import bytes_of_batch

LOSSES: dict[str, Loss] = {"ours, Triton": ours_triton, "official": official, "plain": plain}
ANY_GPU = "any GPU (counted)"
_POOLING = {
    "forward_kernel",
    "backward_kernel",
    "channel_pool",
    "channel_pool_backward",
}  # as eager, or compiled, names


class Amount(NamedTuple):
    """What one direction of a step takes."""

    nbytes: int
    launches: int


class Count(NamedTuple):
    """What a step takes, by whom and for which features."""

    case: Case
    provider: str
    forward: Amount
    backward: Amount

    @property
    def is_compiled(self) -> bool:
        """By `torch.compile`."""
        return self.provider.endswith(", compiled")

    def modes(self) -> dict[str, Amount]:
        """Forward, backward, and their sum."""
        both = Amount(*map(sum, zip(self.forward, self.backward, strict=True)))
        return {"forward": self.forward, "backward": self.backward, "both": both}


def all_cases() -> list[Case]:
    """The real ones, in two dtypes and layouts."""
    return [
        replace(case, dtype=dtype, layout=layout)
        for case in real_cases().values()
        for dtype in (torch.float32, torch.bfloat16)
        for layout in LAYOUTS
    ]


def quick_cases() -> list[Case]:
    """Two that differ in everything."""
    cases = real_cases()
    scratch = cases["CUB, from scratch, 3 channels a class, 224 pixels"]
    return [scratch, replace(cases["CUB, ResNet50, 224 pixels"], dtype=torch.bfloat16, layout="channels_last")]


def count(compiling: ProcessPoolExecutor, cases: Sequence[Case]) -> list[Count]:
    """Bytes and launches of everyone, case by case."""
    compiled = [
        [(f"{name}, compiled", compiling.submit(compiled_step, loss, case)) for name, loss in LOSSES.items()]
        for case in cases
    ]
    with workers(interpret=True) as interpreting:
        eager = list(interpreting.map(_count_eager, cases))
    counts = []
    for case, (pooled, steps), of_case in zip(cases, eager, compiled, strict=True):
        steps |= {name: step.result() for name, step in of_case}
        counts += [count_of(case, name, step, pooled) for name, step in steps.items()]
    return counts


def count_of(case: Case, provider: str, step: Step, pooled: tuple[int, int]) -> Count:
    """Bytes and launches of a step, with the bytes of our own kernels where they belong."""

    def amount(launches: list[Launch], pooled: int) -> Amount:
        nbytes = sum(pooled if launch.name in _POOLING else launch.nbytes for launch in launches)
        return Amount(nbytes, len(launches))

    return Count(case, provider, amount(step.forward, pooled[0]), amount(step.backward, pooled[1]))


def _count_eager(case: Case) -> tuple[tuple[int, int], dict[str, Step]]:
    """The bytes of our kernels, and the steps of everyone; in a worker that interprets."""
    return bytes_of_batch(case), {name: step_of(loss, case) for name, loss in LOSSES.items()}


def compile_kernels(pool: ProcessPoolExecutor, cases: Iterable[Case], targets: Sequence[str]) -> list[Report]:
    """Our kernels, those of the mask included, compiled for each target."""
    variants = [Variant(case.batch, case.groups, case.side, case.dtype, case.layout) for case in cases]
    return compile_cases(pool, variants, targets)


def rows_of_counts(counts: Iterable[Count]) -> Iterator[Result]:
    """Traffic and launches."""
    for one in counts:
        source, device = ("compiled", INDUCTOR) if one.is_compiled else ("counted", ANY_GPU)
        for mode, amount in one.modes().items():
            for metric, value in (("traffic", amount.nbytes), ("launches", amount.launches)):
                yield _row(one.provider, one.case, mode, metric, value, source, device)


def rows_of_rooflines(counts: Iterable[Count]) -> Iterator[Result]:
    """The least time of a step on each GPU."""
    for one in counts:
        for gpu in BANDWIDTHS:
            least = milliseconds(gpu, *one.modes()["both"])
            yield _row(one.provider, one.case, "both", "roofline", least, "modelled", f"{gpu} (model)")


def rows_of_kernels(reports: Iterable[Report]) -> Iterator[Result]:
    """What became of our kernels; that of the mask once for each shape."""
    for report in reports:
        is_of_mask = report.kernel == "masks.mask"
        cases = {
            replace(case, dtype=torch.float32, layout="contiguous") if is_of_mask else case for case in report.cases
        }
        for case in sorted(cases, key=str):
            for metric, value, source in _facts(report):
                mode = "backward" if report.kernel.endswith("backward") else "forward"
                device = f"{report.target} (compiled, not run)"
                yield _row(f"ours, Triton: {report.kernel}", case, mode, metric, value, source, device)


def _facts(report: Report) -> Iterator[tuple[str, float, str]]:
    """Metric, value and source."""
    yield "registers", report.registers, "compiled"
    yield "stack", report.stack, "compiled"
    yield "shared", report.shared, "compiled"
    for metric, what in (("load width", "load features"), ("store width", "store grad")):
        if widths := report.widths(what):
            yield metric, min(widths), "compiled"
    if report.target in SHARED_BYTES:
        warps = report.constants["num_warps"]
        yield "occupancy", occupancy(report.target, report.registers, warps, report.shared), "modelled"
    else:  # NVIDIA's compiler spills to the stack, and says no more
        yield "spills", report.spills + report.scalar_spills, "compiled"


def _row(provider: str, case: Case, mode: str, metric: str, value: float, source: str, device: str) -> Result:
    return Result(
        provider=provider,
        shape=case.shape,
        dtype=case.dtype_name,
        layout=case.layout,
        mode=mode,
        metric=metric,
        value=float(value),
        low=float(value),
        high=float(value),
        samples=1,
        source=source,
        device=device,
        versions=results.versions(),
        commit=results.commit(),
        date=results.today(),
    )


def table(rows: Sequence[Result], cases: Iterable[Case]) -> Iterator[str]:
    """Lines of text: case by case, what everyone's step takes, and what became of our kernels."""
    for case in cases:
        here = [row for row in rows if (row.shape, row.dtype, row.layout) == (case.shape, case.dtype_name, case.layout)]
        yield f"{name_of(case.shape)}: {case}"
        yield f"  {'forward + backward':34}{'launches':>12}{'bytes / |F|':>18}" + "".join(
            f"{f'{gpu}, model':>22}" for gpu in BANDWIDTHS
        )
        for provider in dict.fromkeys(row.provider for row in here if row.metric == "traffic"):
            of = {
                (row.metric, row.mode, row.device if row.metric == "roofline" else ""): row.value
                for row in here
                if row.provider == provider
            }
            launches, nbytes = (
                [of[metric, mode, ""] for mode in ("forward", "backward")] for metric in ("launches", "traffic")
            )
            line = f"  {provider:34}{f'{launches[0]:.0f} + {launches[1]:.0f}':>12}"
            line += f"{' + '.join(f'{value / case.nbytes:.2f}' for value in nbytes):>18}"
            yield line + "".join(f"{1e3 * of['roofline', 'both', f'{gpu} (model)']:19.0f} µs" for gpu in BANDWIDTHS)
        ours = [row for row in here if ": " in row.provider]
        for (provider, device), facts in groupby(ours, lambda row: (row.provider, row.device)):
            told = ", ".join(f"{fact.metric} {fact.value:g}" for fact in facts)
            yield f"  {provider.removeprefix('ours, Triton: '):26}{device.split()[0]:8}{told}"
        yield ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("--quick", action="store_true", help="two cases, and one GPU to compile our kernels for")
    parser.add_argument(
        "--output", type=Path, help="default: bench/results/static.csv, or with --quick runs/bench/static.csv"
    )


def main(arguments: argparse.Namespace) -> None:
    """Count, compile and model; write the file and print the table."""
    cases, targets = (quick_cases(), ["sm_90"]) if arguments.quick else (all_cases(), list(TARGETS))
    write(
        cases, targets, arguments.output or (Path("runs/bench") if arguments.quick else results.FOLDER) / "static.csv"
    )


def write(cases: Sequence[Case], targets: Sequence[str], output: Path) -> None:
    """All results for these cases, as a file and as a table."""
    print(f"{results.versions()}; commit {results.commit()}")
    print(f"{len(cases)} cases: counting, then generating and compiling code", flush=True)
    with workers() as pool:
        counts = count(pool, cases)
        reports = compile_kernels(pool, cases, targets)
    rows = [*rows_of_counts(counts), *rows_of_rooflines(counts), *rows_of_kernels(reports)]
    results.write(output, rows)
    print("µs and occupancy are modelled, nobody has measured them; the rest is counted, or read off compiled code")
    print(*table(rows, cases), sep="\n")
    print(f"{len(rows)} results in {output}")
