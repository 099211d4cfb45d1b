"""Carrying out a plan: what is not yet trained is trained, and every run's last row collected."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from ..commands import Experiment
from ..training.build import load_data
from ..training.distributed import choose_device
from ..training.environment import usable_cores
from .parallel_runs import finished_rows, of_run, train_several
from .plan import Plan, Variant, run_name
from .results import Results, write


def run_and_write(plan: Plan, options: Experiment) -> Results:
    """`run` by the options of a command, and write ``results.json``."""
    try:
        results = run(plan, options.folder, options.processes, options.device, options.workers)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command resumes") from None
    write(options.folder / "results.json", results)
    return results


def run(plan: Plan, folder: Path, processes: int | None = None, device: str = "auto", workers: int = 0) -> Results:
    """Train what is not yet trained.

    Args:
        plan: what to train.
        folder: gets a folder for each run.
        processes: runs at the same time; None for one, or on CPUs as many as there are cores for.
        device: see `choose_device`.
        workers: processes that read images ahead, for each run.

    Raises:
        ValueError: ``processes`` is below 1; or as in `train_several`.
    """
    if processes is not None and processes < 1:
        raise ValueError(f"processes must be at least 1; got {processes}.")
    on_cpu = choose_device(device).type == "cpu"
    if processes is None:
        processes = max(1, usable_cores() // plan.base.threads) if on_cpu and plan.base.threads else 1
    train_set, test_set = load_data(plan.base)
    jobs = {settings: (settings, folder / run_name(plan.base, settings)) for settings in plan.settings()}
    rows = train_several(jobs, processes, resume=True, device=device, workers=workers)
    return Results(
        plan,
        _trained_on([run_folder for _, run_folder in jobs.values()]),
        (len(train_set), len(test_set)),
        {settings: of_run(epochs) for settings, epochs in rows.items()},
    )


def finished(plan: Plan, folder: Path) -> Plan:
    """The part of a plan whose runs are finished: each variant with the seeds that it and its baseline have.

    Raises:
        ValueError: there is none.
    """
    found = {
        settings for settings in plan.settings() if finished_rows(settings, folder / run_name(plan.base, settings))
    }

    def seeds(variant: Variant) -> tuple[int, ...]:
        pair = variant.settings, variant.baseline
        return tuple(seed for seed in variant.seeds if all(replace(one, seed=seed) in found for one in pair))

    sections = {
        heading: [replace(variant, seeds=seeds(variant)) for variant in variants if seeds(variant)]
        for heading, variants in plan.sections.items()
    }
    if not any(sections.values()):
        raise ValueError(f"no run of it is finished in {folder}.")
    return Plan(plan.base, {heading: variants for heading, variants in sections.items() if variants})


def _trained_on(folders: list[Path]) -> dict[str, str]:
    """Machine that trained the runs, which need not be the one that collects them."""
    found = [json.loads((folder / "metrics.json").read_text())["environment"] for folder in folders]
    return {name: " and ".join(dict.fromkeys(str(one[name]) for one in found)) for name in found[0]}
