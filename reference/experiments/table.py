"""The table of an experiment, in text."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from ..datasets import DATASETS
from ..model.names import SMALL
from ..training.settings import Settings
from .plan import Plan, Variant
from .results import ACCURACY, Results
from .statistics import CONFIDENCE, deviations, interval, mean_and_deviation

MEASURES = {
    # column of the metrics: heading, format
    "test_discriminality": ("L_dis", ".2f"),
    "test_diversity_fraction": ("L_div / ξ", ".2f"),
    "test_overlap": ("overlap", ".3f"),
}

SECONDS = {"seconds": ("seconds", ".0f")}

_NAME, _CELL = 37, 16


def table(results: Results, measures: Mapping[str, tuple[str, str]] = MEASURES) -> str:
    """Print runs and machine, a line per variant, and how to read them.

    Args:
        results: of all runs.
        measures: the columns beside accuracy: by their name in the metrics, the heading and the format.
    """
    headings = ["accuracy %", "difference", "more/less", *(heading for heading, _ in measures.values())]
    lines = [describe(results), "", "".ljust(_NAME) + "".join(heading.rjust(_CELL) for heading in headings)]
    for heading, variants in results.plan.sections.items():
        lines += [heading, *(_line(results, variant, measures) for variant in variants)]
    return "\n".join([*lines, "", *_notes(results.plan)])


def describe(results: Results) -> str:
    """Runs, data and machine."""
    base, on = results.plan.base, results.environment
    alpha, beta = base.weights
    train, test = results.images
    backbone = f"the small network, {base.pooling} pooling" if base.backbone == SMALL else base.backbone
    xi = f"ξ = {base.channels_per_class}" if base.channels_per_class else "the backbone's own channels"
    precision = "float32" if base.mixed_precision == "off" else base.mixed_precision
    return (
        f"{on['cpu']}, {on['cores']} cores; Python {on['python']}, torch {on['torch']}; device {on['device']}, "
        f"{precision}\n"
        f"{DATASETS[base.dataset].title}, {train} images to train on, {test} to test; {backbone}\n"
        f"{base.epochs} epochs; seeds {' '.join(map(str, results.plan.seeds()))}; where the line says nothing else, "
        f"learning rate {base.learning_rate:g}, α = {alpha:g}, β = {beta:g}, {xi}, drop {base.drop}"
    )


def sources(settings: Settings, environment: Mapping[str, str | int]) -> str:
    """The data, device and versions of a run, in short."""
    precision = "float32" if settings.mixed_precision == "off" else settings.mixed_precision
    data = DATASETS[settings.dataset].title
    return (
        f"{data[0].upper()}{data[1:]}, {settings.epochs} epochs, seed {settings.seed}. {environment['cpu']}; "
        f"device {environment['device']}, {precision}; torch {environment['torch']}"
    )


def _line(results: Results, variant: Variant, measures: Mapping[str, tuple[str, str]]) -> str:
    cells = [mean_and_deviation([100 * value for value in results.values(variant, ACCURACY)], ".1f")]
    if variant.settings == variant.baseline:
        cells += ["", ""]
    else:
        differences = [100 * value for value in results.differences(variant, ACCURACY)]
        is_clear = abs(fmean(differences)) > interval(differences) > 0  # never of one alone, nor of equal ones
        cells.append(mean_and_deviation(differences, ".1f", "+") + ("*" if is_clear else ""))
        cells.append(f"{sum(value > 0 for value in differences)}/{sum(value < 0 for value in differences)}")
    cells += [mean_and_deviation(results.values(variant, measure), digits) for measure, (_, digits) in measures.items()]
    number = len(variant.seeds)
    fewer = "" if number == len(results.plan.seeds()) else f" ({number} seed{'s' if number > 1 else ''})"
    return (f"  {variant.name}{fewer}".ljust(_NAME) + "".join(cell.rjust(_CELL) for cell in cells)).rstrip()


def _notes(plan: Plan) -> list[str]:
    seeds = len(plan.seeds())
    notes = [
        "Test images after the last epoch, no channel masked.",
        "difference: in accuracy, to the section's cross-entropy with the same seed; more/less: on how many seeds.",
    ]
    if seeds > 1:
        few = min(len(variant.seeds) for variant in plan.variants())
        factor = f"{deviations(seeds):.2f}" + (f" ({few} seeds: {deviations(few):.2f})" if 1 < few < seeds else "")
        notes += [
            f"±: standard deviation over {seeds} seeds, or as many as the line says. *: the mean difference is over",
            f"{factor} times its ±, which chance alone",
            f"exceeds in {1 - CONFIDENCE:.0%} of comparisons (paired t-test; not corrected for how many there are).",
        ]
    return notes
