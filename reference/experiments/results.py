"""The numbers of an ablation in a file, from which its table and its figure are made."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from ..training.checkpoint import Row
from ..training.logs import without_nan
from ..training.settings import Settings
from .plan import Plan, Variant

_OF_RUN = ("weights", "channels_per_class", "drop", "seed")
"""The settings in which the runs of a plan differ."""


@dataclass(frozen=True)
class Results:
    """A plan that was carried out.

    Attributes:
        plan: what was trained.
        environment: what it ran on.
        images: how many there were, for training and for testing.
        rows: of every run, the last epoch, and the seconds of all epochs.
    """

    plan: Plan
    environment: Mapping[str, str | int]
    images: tuple[int, int]
    rows: Mapping[Settings, Row]

    def values(self, settings: Settings, measure: str) -> list[float]:
        """A column of the metrics after the last epoch, for each seed; ValueError where there is none."""
        rows = [self.rows[replace(settings, seed=seed)] for seed in self.plan.seeds]
        if any(measure not in row for row in rows):
            raise ValueError(f"the results must have {measure} of every run; they may be of an older version.")
        return [row[measure] for row in rows]

    def differences(self, variant: Variant, measure: str) -> list[float]:
        """What a variant has more than cross-entropy alone, for each seed."""
        pairs = zip(self.values(variant.settings, measure), self.values(variant.baseline, measure), strict=True)
        return [value - baseline for value, baseline in pairs]


def write(path: Path, results: Results) -> None:
    """Everything as JSON, and beside it the runs as CSV."""
    plan = results.plan
    runs = [
        {name: getattr(settings, name) for name in _OF_RUN} | results.rows[settings] for settings in plan.settings()
    ]
    content = {
        "environment": results.environment,
        "images": results.images,
        "base": asdict(replace(plan.base, data="")),
        **{name.name: getattr(plan, name.name) for name in fields(plan) if name.name != "base"},
        "runs": list(map(without_nan, runs)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")
    with open(path.with_suffix(".csv"), "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        measures = [name for name in runs[0] if name not in _OF_RUN]
        writer.writerow(["alpha", "beta", *_OF_RUN[1:], *measures])
        writer.writerows([*run["weights"], *(run[name] for name in (*_OF_RUN[1:], *measures))] for run in runs)


def read(path: Path) -> Results:
    """What `write` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none of an ablation, or lacks a run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there are no results {path}; an ablation writes them when all its runs are finished.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        base = Settings(**content["base"])
        plan = Plan(base, *(tuple(content[name]) for name in ("seeds", "channels", "drops")))
        rows = {}
        for run in content["runs"]:
            settings = replace(base, **{name: run.pop(name) for name in _OF_RUN})
            rows[settings] = {name: math.nan if value is None else value for name, value in run.items()}
        train, test = content["images"]
        results = Results(plan, content["environment"], (train, test), rows)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} must be the JSON file of an ablation: {error!r}.") from error
    if missing := [settings for settings in plan.settings() if replace(settings, data="") not in rows]:
        raise ValueError(f"{path} lacks {len(missing)} runs, such as that of {missing[0]}.")
    return results
