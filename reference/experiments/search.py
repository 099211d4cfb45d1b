"""Settings for each variant of an ablation, picked on other seeds: ``python -m reference search --help``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from statistics import fmean
from typing import Any

from ..training.settings import Settings, add_arguments, from_arguments
from ..training.trainer import DivergedError
from . import experiment
from .plan import Plan, changes, vary
from .results import ACCURACY, Results, write
from .table import table

Grid = Mapping[str, Sequence[Mapping[str, Any]]]
"""By the name of a variant, the settings to try."""

GRID = Path(__file__).parent / "typefaces_grid.json"


def main(arguments: list[str] | None = None) -> int:
    """Train, print the table and write the picks; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m reference search",
        description="Train with all settings of a grid, variant by variant, and pick those of the "
        "highest mean accuracy on the test images. They must not be those that results are reported on: typefaces "
        "draw others for each seed.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_arguments(parser, only=tuple(setting.name for setting in fields(Settings) if setting.name != "seed"))
    experiment.add_arguments(parser, seeds=[100], folder="runs/search")
    parser.add_argument("--grid", type=Path, default=GRID, metavar="FILE", help="settings to try, by variant")
    options = parser.parse_args(arguments)
    try:
        plan = search_plan(from_arguments(options), options.seeds, read_grid(options.grid))
        results = experiment.run(plan, options.folder, options.processes, options.device, options.workers)
        write(options.folder / "results.json", results)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on.", file=sys.stderr)
        return 130
    except (TypeError, ValueError, OSError, DivergedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(results))
    path = options.folder / "picks.json"
    path.write_text(json.dumps(picks(results), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\npicks: {path}")
    return 0


def read_grid(path: Path) -> Grid:
    """The grid in a JSON file; ValueError where it holds something else."""
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


if __name__ == "__main__":
    sys.exit(main())
