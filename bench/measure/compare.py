"""Time and memory of the loss against all others, on this machine: `python -m bench run`.

Every provider computes loss and gradient of the same features, targets and mask. Whoever disagrees with the oracle is
reported and not timed. The others take turns, so that all see the machine in the same state; ratios are taken turn by
turn. Each case has a process of its own, as what is measured depends on the memory that was used before.
"""

from __future__ import annotations

import argparse
import importlib
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch

from reference.training.environment import environment, usable_cores

from .. import results
from ..cases import LAYOUTS, Case, chosen, line_of, real_cases, sweeps
from ..providers import Inputs, Provider, oracle, providers, verdict_on
from ..results import Result
from .memory import peak_bytes
from .timing import MODES, Clock, call_of, clocks, copy_call, rotation

LEAST_PASSES = {"forward": 1, "backward": 2, "both": 3, "copy": 2}  # over the features, by whoever does nothing twice


def quick_cases() -> list[Case]:
    """A few that differ in everything."""
    cases = real_cases(16)
    scratch = cases["CUB, from scratch, 3 channels a class, 224 pixels"]
    resnet = cases["CUB, ResNet50, 448 pixels"]
    small = cases["CUB, VGG16 or ResNet18, 224 pixels"]
    flowers = cases["Flowers, ResNet50, 448 pixels"]
    few = [scratch, small, resnet, flowers]
    return few + [replace(case, dtype=torch.bfloat16, layout="channels_last") for case in few]


def all_cases() -> list[Case]:
    """All real ones, as float32 and as mixed precision has them, and those of CUB in every dtype and layout."""
    cases = []
    for name, case in real_cases().items():
        for dtype in (torch.float32, torch.bfloat16):
            for layout in LAYOUTS:
                if name.startswith("CUB") or (dtype == torch.float32) == (layout == "contiguous"):
                    cases.append(replace(case, dtype=dtype, layout=layout))
    return cases


def measure(
    case: Case,
    everyone: Sequence[Provider],
    device: torch.device,
    turns: int,
    modes: Sequence[str] = MODES,
    warm_up: int = 2,
) -> list[Result]:
    """All results of one case; who is wrong, or cannot take part, is printed.

    Args:
        case: the features.
        everyone: ratios are to the first, if that one is right.
        device: where they compute.
        turns: measurements of each.
        modes: of `MODES`.
        warm_up: calls before the first that counts.
    """
    inputs = [Inputs.of(case, device)]
    truths = {masked: oracle(inputs[0], masked) for masked in {provider.takes_masks for provider in everyone}}
    inputs += [Inputs.of(case, device, seed) for seed in range(1, rotation(case, device))]
    rows: list[Result] = []
    timed: dict[tuple[str, str, str], Clock] = {}  # by provider, mode and metric
    torch.compiler.reset()  # each shape is compiled by itself, as in training
    for provider in everyone:
        if not provider.takes_ragged_groups and not case.groups.is_uniform:
            print(f"  {provider.name} takes classes of equal size only")
            continue
        verdict = verdict_on(provider, inputs[0], truths[provider.takes_masks])
        if verdict.error is None:
            print(f"  {provider.name} fails and is not timed: {verdict.mistake}")
            continue
        if verdict.mistake is not None:
            print(f"  {provider.name} disagrees with the oracle and is not timed: {verdict.mistake}")
            rows.append(_row(provider.name, case, "both", "wrong", [verdict.error], device))
            continue
        rows.append(_row(provider.name, case, "both", "error", [verdict.error], device))
        for mode in modes:
            for metric, clock in clocks(call_of(provider.loss, mode), inputs, device, warm_up, provider.name).items():
                timed[provider.name, mode, metric] = clock
    for metric, clock in clocks(copy_call(), inputs, device, warm_up, "copy").items():
        timed["copy", "copy", metric] = clock
    seconds: dict[tuple[str, str, str], list[float]] = {key: [] for key in timed}
    for turn in range(turns):
        for key, clock in timed.items():
            seconds[key].append(clock(turn))

    ours = everyone[0].name
    for (name, mode, metric), times in seconds.items():
        rows.append(_row(name, case, mode, metric, [1e3 * time for time in times], device))
        if metric == ("kernel" if device.type == "cuda" else "wall"):
            moved = LEAST_PASSES[mode] * case.nbytes
            rows.append(_row(name, case, mode, "bandwidth", [moved / time / 1e9 for time in times], device))
        if metric == "wall" and name not in (ours, "copy") and (ours, mode, metric) in seconds:
            ratios = [time / own for time, own in zip(times, seconds[ours, mode, metric], strict=True)]
            rows.append(_row(name, case, mode, "ratio", ratios, device))
    for provider in everyone:
        for mode in modes:
            if (provider.name, mode, "wall") in timed:
                call = call_of(provider.loss, mode)
                prepared = call.prepared(inputs[0])
                peak = peak_bytes(lambda: call.run(prepared), device)  # noqa: B023, called at once
                del prepared
                rows.append(_row(provider.name, case, mode, "peak", [peak], device))
    return rows


def _row(name: str, case: Case, mode: str, metric: str, samples: list[float], device: torch.device) -> Result:
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else 3 * samples
    return Result(
        name,
        case.shape,
        case.dtype_name,
        case.layout,
        mode,
        metric,
        statistics.median(samples),
        low,
        high,
        len(samples),
        "measured",
        device_name(device),
        results.versions(),
        results.commit(),
        results.today(),
    )


def device_name(device: torch.device) -> str:
    """The GPU, or the processor and how many threads compute on it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{environment()['cpu']}, {threads} thread{'s' * (threads > 1)}"


def table(rows: Iterable[Result]) -> list[str]:
    """Lines of text: a provider and mode each, with its median times, quartiles, ratio to ours, and memory."""
    by_call: dict[tuple[str, str], dict[str, Result]] = {}
    for row in rows:
        by_call.setdefault((row.provider, row.mode), {})[row.metric] = row
    lines = []
    for (provider, mode), of in by_call.items():
        line = f"  {provider:22}{mode:9}"
        for metric in ("kernel", "operator", "wall"):
            if metric in of:
                line += f"{metric:>10} {of[metric].value:8.3f} ms ({of[metric].low:.3f} to {of[metric].high:.3f})"
        if "bandwidth" in of:
            line += f"{of['bandwidth'].value:9.1f} GB/s"
        if "ratio" in of:
            line += f"{of['ratio'].value:8.2f} x ours ({of['ratio'].low:.2f} to {of['ratio'].high:.2f})"
        if "peak" in of:
            line += f"{of['peak'].value / 2**20:9.1f} MiB"
        if "wall" in of:
            lines.append(line)
    return lines


def provider_from(text: str) -> Provider:
    """A provider of one's own, from "module:function"."""
    module, _, function = text.partition(":")
    try:
        loss = getattr(importlib.import_module(module), function)
        if not callable(loss):
            raise TypeError(f"{type(loss).__name__} cannot be called")
        return Provider(text, loss)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise argparse.ArgumentTypeError(
            f"must be module:function, (features, targets, mask, groups) -> loss, importable from here; got {text!r} "
            f"({error})."
        ) from error


def measure_apart(
    case: Case, device: torch.device, threads: int, compiled: bool, own: Sequence[str], turns: int, modes: Sequence[str]
) -> list[Result]:
    """`measure` in a new process, with everyone who can take part, and providers of one's own by name."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_measure, case, device, threads, compiled, own, turns, modes).result()


def _measure(
    case: Case, device: torch.device, threads: int, compiled: bool, own: Sequence[str], turns: int, modes: Sequence[str]
) -> list[Result]:
    torch.set_num_threads(threads)
    everyone = providers(device, compiled=compiled, own=tuple(map(provider_from, own)))
    rows = measure(case, everyone, device, turns, modes, warm_up=10 if device.type == "cuda" else 2)
    sys.stdout.flush()
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--full", action="store_true", help="all real shapes, dtypes and layouts instead of a few")
    parser.add_argument("--cases", nargs="+", default=[""], help="only cases whose line contains one of these")
    parser.add_argument("--no-sweeps", action="store_true", help="leave out how the time grows with each dimension")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="default: all of them")
    parser.add_argument("--turns", type=positive, help="measurements of each (default: 7 on a CPU, 50 on a GPU)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--threads", type=positive, nargs="+", default=[usable_cores()], help="on a CPU (default: as many as cores)"
    )
    parser.add_argument(
        "--compiled", action="store_true", help="with torch.compile of each on a CPU too, which takes its time"
    )
    parser.add_argument(
        "--provider",
        type=_checked_provider,
        action="append",
        default=[],
        metavar="MODULE:FUNCTION",
        help="one of your own: (features, targets, mask, groups) -> 1.5·L_dis + 20·(1 − mean h/ξ); may be repeated",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/bench"),
        help="folder of the results, a file for each device; newer results replace older ones (default: runs/bench)",
    )


def positive(text: str) -> int:
    """A number that an argument needs to be at least 1."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {number}.")
    return number


def _checked_provider(text: str) -> str:
    provider_from(text)
    return text


def main(arguments: argparse.Namespace) -> None:
    device = torch.device(arguments.device)
    is_gpu = device.type == "cuda"
    if is_gpu and not torch.cuda.is_available():
        raise SystemExit("--device cuda needs a GPU and a PyTorch that is built for it; there is none here.")
    turns = arguments.turns or (50 if is_gpu else 7)
    cases = [(case, arguments.modes) for case in (all_cases() if arguments.full else quick_cases())]
    if not arguments.no_sweeps:
        cases += [(case, ["both"]) for sweep in sweeps().values() for case in sweep.values()]
    wanted = chosen([case for case, _ in cases], arguments.cases)
    cases = [(case, modes) for case, modes in cases if case in wanted]
    arguments.output.mkdir(parents=True, exist_ok=True)
    for threads in [torch.get_num_threads()] if is_gpu else arguments.threads:
        torch.set_num_threads(threads)
        print(f"{device_name(device)}; {results.versions()}; commit {results.commit()}")
        if not is_gpu:
            left_out = "the Triton kernels" + " and (without --compiled) torch.compile" * (not arguments.compiled)
            print(f"on a CPU {left_out} are left out")
        print(f"medians (and quartiles) of {turns} turns; memory is the most held at a time, beside the features")
        path = arguments.output / f"{re.sub(r'[^a-z0-9]+', '-', device_name(device).lower())}.csv"
        for case, modes in cases:
            print(line_of(case), flush=True)
            compiled = is_gpu or arguments.compiled
            rows = measure_apart(case, device, threads, compiled, arguments.provider, turns, modes)
            print(*table(rows), sep="\n", flush=True)
            results.update(path, rows)
        print(f"results are in {path}; python -m bench plot --results {path.parent} --output {path.parent} draws them")
