"""The figure of an ablation: every seed of every variant, and their means."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from ..figures.pictures import save
from .plan import Variant
from .results import ACCURACY, Results
from .statistics import CONFIDENCE, interval

# Blue and vermilion of Okabe and Ito, told apart with every kind of colour vision.
_BASELINE, _VARIANT = "#0072B2", "#D55E00"
_GREY = "#444444"


def draw_ablation(results: Results, path: Path) -> None:
    """A line for each variant: its difference in accuracy, its diversity, and its overlap.

    Args:
        results: of all runs.
        path: of the PNG file.
    """
    sections = results.plan.sections
    lines = sum(1 + len(variants) for variants in sections.values())
    figure, axes = plt.subplots(1, 3, figsize=(11, 1.4 + 0.27 * lines), sharey=True, layout="constrained")
    titles = (
        ("Accuracy", "points above cross-entropy alone"),
        ("L_div / ξ", "from 1/ξ to 1, higher is more diverse"),
        ("Overlap of channels", "IoU of top tenths, lower is more diverse"),
    )
    for axis, (title, subtitle) in zip(axes, titles, strict=True):
        axis.set_title(f"{title}\n", fontsize=11, loc="left", weight="bold")
        axis.text(0, 1.02, subtitle, transform=axis.transAxes, fontsize=8.5, color=_GREY)
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    axes[0].axvline(0, color="black", linewidth=1, linestyle=":")

    labels, y = [], 0
    for heading, variants in sections.items():
        labels.append((y, heading))
        for variant in variants:
            y += 1
            labels.append((y, variant.name))
            _draw_variant(axes, results, variant, y)
        y += 1
    axes[0].set_yticks([place for place, _ in labels], [name for _, name in labels], fontsize=9)
    for label in axes[0].get_yticklabels():
        label.set_color(_GREY if label.get_text() in sections else "black")
    axes[0].set_ylim(y - 0.4, -0.6)
    seeds = len(results.plan.seeds())
    bar = f"; bar: {CONFIDENCE:.0%} confidence interval of the mean" if seeds > 1 else ""
    note = f"Each of up to {seeds} seeds is a small circle; diamond: their mean{bar}. Test images after the last epoch."
    figure.supxlabel(note, fontsize=8.5, color=_GREY)
    save(figure, path)


def _draw_variant(axes: list[Axes], results: Results, variant: Variant, y: int) -> None:
    is_baseline = variant.settings == variant.baseline
    color = _BASELINE if is_baseline else _VARIANT
    if not is_baseline:
        differences = [100 * value for value in results.differences(variant, ACCURACY)]
        axes[0].plot(
            [fmean(differences) + side * interval(differences) for side in (-1, 1)], [y, y], color=color, linewidth=1.8
        )
        _draw_values(axes[0], differences, y, color)
    for axis, measure in zip(axes[1:], ("test_diversity_fraction", "test_overlap"), strict=True):
        _draw_values(axis, results.values(variant, measure), y, color)


def _draw_values(axis: Axes, values: list[float], y: int, color: str) -> None:
    axis.plot(values, [y] * len(values), "o", color=color, markersize=4, alpha=0.35, markeredgewidth=0)
    axis.plot(fmean(values), y, "D", color=color, markersize=5.5)
