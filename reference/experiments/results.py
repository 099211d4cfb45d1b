"""The numbers of an experiment in a file, from which its table and its figure are made."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..training.checkpoint import Row
from ..training.logs import without_nan
from ..training.settings import Settings
from .plan import Plan, Variant, changes, run_name, vary

ACCURACY = "test_accuracy"


@dataclass(frozen=True)
class Results:
    """A plan that was carried out.

    Attributes:
        plan: what was trained.
        environment: what it ran on.
        images: how many there were, for training and for testing.
        rows: of every run, the last evaluation, and the seconds of all epochs.
    """

    plan: Plan
    environment: Mapping[str, str | int]
    images: tuple[int, int]
    rows: Mapping[Settings, Row]

    def values(self, variant: Variant, measure: str) -> list[float]:
        """A column of the metrics after the last epoch, for each seed; ValueError where there is none."""
        return self._values(variant.settings, variant.seeds, measure)

    def differences(self, variant: Variant, measure: str) -> list[float]:
        """Difference of a variant to its baseline, per seed."""
        baselines = self._values(variant.baseline, variant.seeds, measure)
        return [value - baseline for value, baseline in zip(self.values(variant, measure), baselines, strict=True)]

    def _values(self, settings: Settings, seeds: Sequence[int], measure: str) -> list[float]:
        rows = [self.rows[replace(settings, seed=seed)] for seed in seeds]
        if any(measure not in row for row in rows):
            raise ValueError(f"the results must have {measure} of every run; they may be of an older version.")
        return [row[measure] for row in rows]


def write(path: Path, results: Results) -> None:
    """Write everything as JSON."""
    plan = results.plan
    base = replace(plan.base, data="")
    runs = [
        {"seed": settings.seed, **results.rows[settings], "changes": changes(base, settings)}
        for settings in plan.settings()
    ]
    content = {
        "environment": results.environment,
        "images": results.images,
        "base": asdict(base),
        "sections": {
            heading: [
                {
                    "name": variant.name,
                    "seeds": variant.seeds,
                    "changes": changes(base, variant.settings),
                    "baseline": changes(base, variant.baseline),
                }
                for variant in variants
            ]
            for heading, variants in plan.sections.items()
        },
        "runs": list(map(without_nan, runs)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def read(path: Path) -> Results:
    """Read results that `write` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none of an experiment, or lacks a run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there are no results {path}; they are written when all runs are finished.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        base = Settings(**content["base"])
        sections = {heading: [vary(base, **line) for line in lines] for heading, lines in content["sections"].items()}
        rows = {}
        for run in content["runs"]:
            settings = replace(base, seed=run.pop("seed"), **run.pop("changes"))
            rows[settings] = {name: math.nan if value is None else value for name, value in run.items()}
        train, test = content["images"]
        plan = Plan(base, sections)
        results = Results(plan, content["environment"], (train, test), rows)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} must be the results.json of an experiment: {error!r}.") from error
    if missing := [settings for settings in plan.settings() if settings not in rows]:
        raise ValueError(f"{path} lacks {len(missing)} runs, such as {run_name(base, missing[0])}.")
    return results
