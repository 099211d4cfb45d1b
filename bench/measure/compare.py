"""Time and memory of the loss against all others, on this machine: `python -m bench run`.

Every provider computes loss and gradient of the same features, targets and mask. One that disagrees with the oracle is
reported and not timed. The others take turns, so that all meet the machine in the same state; ratios are taken per
turn. Each case runs in a process of its own, since the memory used before a measurement changes it.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import torch

from reference.training.environment import environment, usable_cores

from .. import results
from ..cases import Case, all_cases, chosen, line_of, quick_cases, sweeps
from ..providers import Inputs, Provider, label, oracle, providers, verdict_on
from ..results import result, where
from .memory import peak_bytes
from .timing import MODES, Clock, call_of, clocks, copy_call, rotation

if TYPE_CHECKING:
    import pandas as pd

COPY = Provider("copy", lambda features, *_: features.clone())  # beside the others, for what the device can do
Rows = list[dict[str, Any]]


def measure(
    case: Case,
    everyone: Sequence[Provider],
    device: torch.device,
    turns: int,
    modes: Sequence[str] = MODES,
    warm_up: int = 2,
    busy: int = 0,
) -> Rows:
    """All results of one case; providers that are wrong, or cannot take part, are printed.

    Args:
        case: the features.
        everyone: the providers; ratios are to the first, if that one is right.
        device: where they compute.
        turns: measurements of each.
        modes: of `MODES`.
        warm_up: calls before the first that counts.
        busy: other processes that spin meanwhile, for the results.
    """

    def row(provider: Provider, mode: str, metric: str, value: float | list[float]) -> dict[str, Any]:
        facts = case.facts | provider.facts | device_facts(device) | {"busy": busy}
        return result(metric, value, "measured", mode=mode, **facts)

    inputs = [Inputs.of(case, device)]
    truths = {masked: oracle(inputs[0], masked) for masked in {provider.takes_masks for provider in everyone}}
    inputs += [Inputs.of(case, device, seed) for seed in range(1, rotation(case, device))]
    rows: Rows = []
    timed: dict[tuple[Provider, str, str], Clock] = {}  # by provider, mode and metric
    torch.compiler.reset()  # each shape is compiled by itself, as in training
    for provider in everyone:
        if not provider.takes_ragged_groups and not case.groups.is_uniform:
            print(f"  {provider.label} takes classes of equal size only")
            continue
        verdict = verdict_on(provider, inputs[0], truths[provider.takes_masks])
        if verdict.error is None:
            print(f"  {provider.label} fails and is not timed: {verdict.mistake}")
            continue
        rows.append(row(provider, "both", "wrong" if verdict.mistake else "error", verdict.error))
        if verdict.mistake is not None:
            print(f"  {provider.label} disagrees with the oracle and is not timed: {verdict.mistake}")
            continue
        for mode in modes:
            for metric, clock in clocks(call_of(provider.loss, mode), inputs, device, warm_up, provider.label).items():
                timed[provider, mode, metric] = clock
    for metric, clock in clocks(copy_call(), inputs, device, warm_up, "copy").items():
        timed[COPY, "both", metric] = clock
    seconds: dict[tuple[Provider, str, str], list[float]] = {key: [] for key in timed}
    for turn in range(turns):
        for key, clock in timed.items():
            seconds[key].append(clock(turn))

    ours = everyone[0]
    for (provider, mode, metric), times in seconds.items():
        rows.append(row(provider, mode, metric, [1e3 * time for time in times]))
        if metric == "wall" and provider not in (ours, COPY) and (ours, mode, metric) in seconds:
            ratios = [time / own for time, own in zip(times, seconds[ours, mode, metric], strict=True)]
            rows.append(row(provider, mode, "ratio", ratios))
    for provider in everyone:
        for mode in modes:
            if (provider, mode, "wall") in timed:
                call = call_of(provider.loss, mode)
                prepared = call.prepared(inputs[0])
                rows.append(row(provider, mode, "peak", peak_bytes(lambda: call.run(prepared), device)))  # noqa: B023
                del prepared
    return rows


def device_facts(device: torch.device) -> dict[str, str | int]:
    """The columns of a result that describe a device."""
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device)}
    return {"device": environment()["cpu"], "threads": torch.get_num_threads()}


def device_name(device: torch.device) -> str:
    """Name of a device: the GPU, or the processor and the number of threads that compute on it."""
    facts = device_facts(device)
    threads = facts.get("threads")
    return f"{facts['device']}, {threads} thread{'s' * (threads != 1)}" if threads else str(facts["device"])


def table(rows: pd.DataFrame) -> list[str]:
    """Lines of text: each provider and mode with its times, ratio to ours (medians, quartiles), and memory."""
    lines = []
    for (mode, *provider), of in rows.groupby(["mode", *results.PROVIDER], sort=False):
        by_metric = of.set_index("metric")
        line = f"  {label(*provider):22}{mode:9}"
        for metric, unit in (("kernel", "ms"), ("operator", "ms"), ("wall", "ms"), ("ratio", "x ours")):
            for one in where(of, metric=metric).itertuples():
                name = "" if metric == "ratio" else f"{metric:>10}"
                line += f"{name} {one.value:8.3f} {unit} ({one.low:.3f} to {one.high:.3f})"
        if "peak" in by_metric.index:
            line += f"{by_metric.value['peak'] / 2**20:9.1f} MiB"
        if "wall" in by_metric.index:
            lines.append(line)
    return lines


def provider_from(text: str) -> Provider:
    """A provider of one's own, from "module:function"; SystemExit where there is none."""
    module, _, function = text.partition(":")
    try:
        loss = getattr(importlib.import_module(module), function)
        if not callable(loss):
            raise TypeError(f"{type(loss).__name__} cannot be called")
        return Provider(text, loss)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise SystemExit(
            f"--provider must be module:function, (features, targets, mask, groups) -> loss, importable from here; got "
            f"{text!r} ({error})."
        ) from error


@contextmanager
def spinning(count: int) -> Iterator[None]:
    """Run as many other processes that use a core each, for as long as this one lives at most."""
    spin = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"
    processes = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def warn_of_load() -> None:
    """Print a warning where more runs on this machine than it has cores."""
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > usable_cores():
        print(f"warning: this machine has {usable_cores()} cores and a load of {load:.1f}: the times will be too long")


def measure_apart(
    case: Case,
    device: torch.device,
    threads: int,
    compiled: bool,
    own: Sequence[str],
    turns: int,
    modes: Sequence[str],
    busy: int = 0,
) -> Rows:
    """`measure` in a new process, with all providers that can take part, and your own by name."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_measure, case, device, threads, compiled, own, turns, modes, busy).result()


def _measure(
    case: Case,
    device: torch.device,
    threads: int,
    compiled: bool,
    own: Sequence[str],
    turns: int,
    modes: Sequence[str],
    busy: int,
) -> Rows:
    if threads:
        torch.set_num_threads(threads)
    everyone = providers(device, compiled=compiled, own=tuple(map(provider_from, own)))
    rows = measure(case, everyone, device, turns, modes, warm_up=10 if device.type == "cuda" else 2, busy=busy)
    sys.stdout.flush()
    return rows


def main(options: argparse.Namespace) -> None:
    """Measure every chosen case, print a table and write the results after each."""
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    is_gpu = device.type == "cuda"
    if is_gpu and not torch.cuda.is_available():
        raise SystemExit("--device cuda needs a GPU and a PyTorch that is built for it; there is none here.")
    for text in options.provider:
        provider_from(text)
    turns = options.turns or (50 if is_gpu else 7)
    cases = [(case, options.modes) for case in (all_cases() if options.full else quick_cases())]
    if options.full and not options.no_sweeps:
        cases += [(case, ["both"]) for sweep in sweeps().values() for case in sweep.values()]
    wanted = chosen([case for case, _ in cases], options.cases)
    cases = [(case, modes) for case, modes in cases if case in wanted]
    options.output.mkdir(parents=True, exist_ok=True)
    warn_of_load()
    busy = usable_cores() if options.busy else 0
    all_threads = options.threads or sorted({1, usable_cores()} if options.full else {usable_cores()})
    for threads in [0] if is_gpu else all_threads:
        if threads:
            torch.set_num_threads(threads)
        print(f"{device_name(device)}; {results.versions()}; commit {results.run_facts()['commit']}")
        compiled = is_gpu if options.compiled is None else options.compiled
        if not is_gpu:
            left_out = "the Triton kernels" + " and (without --compiled) torch.compile" * (not compiled)
            print(f"on a CPU {left_out} are left out")
        if busy:
            print(f"{busy} other processes spin meanwhile")
        print(f"medians (and quartiles) of {turns} turns; memory is the peak, beside the features")
        path = options.output / f"{re.sub(r'[^a-z0-9]+', '-', device_name(device).lower())}.csv"
        for case, modes in cases:
            print(line_of(case), flush=True)
            with spinning(busy):
                rows = measure_apart(case, device, threads, compiled, options.provider, turns, modes, busy)
            found = results.frame(rows)
            print(*table(found), sep="\n", flush=True)
            results.update(path, found)
        print(f"results are in {path}; python -m bench report --results {path.parent} --output DIR draws them")
