"""Settings for each variant of an ablation, picked on other seeds: ``python -m reference search --help``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ..commands import Search
from ..training.settings import Settings
from . import experiment
from .plan import Plan, changes, vary
from .results import ACCURACY, Results
from .table import table

Grid = Mapping[str, Sequence[Mapping[str, Any]]]
"""Settings to try, by the name of the variant."""


def main(options: Search) -> None:
    """Train, print the table and write the picks."""
    try:
        plan = search_plan(options.settings, options.seeds, read_grid(options.grid))
    except TypeError as error:
        raise ValueError(f"{options.grid}: {error}") from error
    results = experiment.run_and_write(plan, options)
    print(table(results))
    path = options.folder / "picks.json"
    path.write_text(json.dumps(picks(results), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\npicks: {path}")


def read_grid(path: Path) -> Grid:
    """The grid in a JSON file; ValueError where it has something else."""
    grid = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(grid, dict) or not all(
        isinstance(tried, list) and tried and all(isinstance(values, dict) for values in tried)
        for tried in grid.values()
    ):
        raise ValueError(f"{path} must hold by the name of a variant a list of settings.")
    return grid


def search_plan(base: Settings, seeds: Sequence[int], grid: Grid) -> Plan:
    """A section for each variant; nothing is a baseline of another."""
    sections = {
        variant: [vary(base, seeds, _describe(values), values, values) for values in tried]
        for variant, tried in grid.items()
    }
    return Plan(base, sections)


def picks(results: Results) -> dict[str, dict[str, Any]]:
    """The values of the highest mean accuracy for each variant; of equal ones the first."""
    best = {
        heading: max(variants, key=lambda variant: fmean(results.values(variant, ACCURACY)))
        for heading, variants in results.plan.sections.items()
    }
    return {heading: changes(results.plan.base, variant.settings) for heading, variant in best.items()}


def _describe(values: Mapping[str, Any]) -> str:
    """Such as "learning_rate 0.03, weights 5 10"."""
    return ", ".join(
        f"{name} {' '.join(map(str, value)) if isinstance(value, list) else value}" for name, value in values.items()
    )
