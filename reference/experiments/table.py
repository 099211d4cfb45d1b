"""The table of an ablation, in text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from scipy.stats import t

from ..datasets import DATASETS, faces
from ..training.settings import SMALL
from .plan import Variant
from .results import Results
from .statistics import mean_and_deviation

ACCURACY = "test_accuracy"

MEASURES = {
    # column of the metrics: heading, format
    "test_discriminality": ("L_dis", ".2f"),
    "test_diversity_fraction": ("L_div / ξ", ".2f"),
    "test_overlap": ("overlap", ".3f"),
}

CONFIDENCE = 0.95

_NAME, _CELL = 29, 16


def table(results: Results) -> str:
    """What was run on what, a line for each variant, and how to read them."""
    headings = ["accuracy %", "difference", "more/less", *(heading for heading, _ in MEASURES.values())]
    lines = [describe(results), "", "".ljust(_NAME) + "".join(heading.rjust(_CELL) for heading in headings)]
    for heading, variants in results.plan.sections().items():
        lines += [heading, *(_line(results, variant) for variant in variants)]
    return "\n".join([*lines, "", *_notes(len(results.plan.seeds))])


def describe(results: Results) -> str:
    """What was run on what."""
    base, on = results.plan.base, results.environment
    alpha, beta = base.weights
    train, test = results.images
    title = faces.TITLE if base.dataset == "faces" else DATASETS[base.dataset].title
    backbone = "the small network" if base.backbone == SMALL else base.backbone
    xi = f"ξ = {base.channels_per_class}" if base.channels_per_class else "the backbone's own channels"
    return (
        f"{on['cpu']}, {on['cores']} cores; Python {on['python']}, torch {on['torch']}; device {on['device']}\n"
        f"{title}, {train} images to train on, {test} to test; {backbone}\n"
        f"{base.epochs} epochs; seeds {' '.join(map(str, results.plan.seeds))}; where the line says nothing else, "
        f"α = {alpha:g}, β = {beta:g}, {xi}, drop {base.drop}"
    )


def interval(values: Sequence[float]) -> float:
    """Half the width of the confidence interval of the mean, by Student's t; NaN for one value alone."""
    if len(values) < 2:
        return math.nan
    return _deviations(len(values)) * stdev(values)


def _deviations(number: int) -> float:
    """Half the width of the interval, in standard deviations."""
    return float(t.ppf((1 + CONFIDENCE) / 2, number - 1)) / math.sqrt(number)


def _line(results: Results, variant: Variant) -> str:
    cells = [mean_and_deviation([100 * value for value in results.values(variant.settings, ACCURACY)], ".1f")]
    if variant.settings == variant.baseline:
        cells += ["", ""]
    else:
        differences = [100 * value for value in results.differences(variant, ACCURACY)]
        is_clear = abs(fmean(differences)) > interval(differences) > 0  # never of one alone, nor of equal ones
        cells.append(mean_and_deviation(differences, ".1f", "+") + ("*" if is_clear else ""))
        cells.append(f"{sum(value > 0 for value in differences)}/{sum(value < 0 for value in differences)}")
    cells += [
        mean_and_deviation(results.values(variant.settings, measure), digits)
        for measure, (_, digits) in MEASURES.items()
    ]
    return (f"  {variant.name}".ljust(_NAME) + "".join(cell.rjust(_CELL) for cell in cells)).rstrip()


def _notes(seeds: int) -> list[str]:
    notes = [
        "Test images after the last epoch, no channel masked.",
        "difference: in accuracy, to cross-entropy alone with the same seed and ξ; more/less: on how many seeds.",
    ]
    if seeds > 1:
        notes += [
            f"±: standard deviation over {seeds} seeds. *: the mean difference is more than {_deviations(seeds):.2f} "
            f"times its ±, which chance alone",
            f"exceeds in {1 - CONFIDENCE:.0%} of comparisons (paired t-test; not corrected for how many there are).",
        ]
    return notes
