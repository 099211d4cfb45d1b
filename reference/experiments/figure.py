"""The figure of an ablation: every seed of every variant, and their means."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import blended_transform_factory

from ..figures.theme import Theme, page
from .plan import Variant
from .results import ACCURACY, Results
from .statistics import CONFIDENCE, interval
from .table import describe

FEWEST = 3
"""Seeds of a bar: that of two is longer than every other difference."""

_LINE = 0.19  # inches of a variant


def ablation_figure(results: Results, theme: Theme) -> Figure:
    """A line for each variant: its difference in accuracy, its diversity, and its overlap."""
    sections = results.plan.sections
    lines = sum(1 + len(variants) for variants in sections.values())
    described = describe(results).replace("\n", "; ")
    keys = [
        _marks(theme.muted, "o", label="one seed"),
        _marks(theme.muted, "D", label="mean"),
        Line2D([], [], color=theme.muted, linewidth=1.8, label=f"{CONFIDENCE:.0%} interval of the mean"),
    ]
    figure, body = page(
        theme,
        "What each part of MC-Loss does",
        f"Test images after the last epoch. {described}. Intervals: {FEWEST} seeds or more, Student's t.",
        0.8 + _LINE * lines,
        keys if len(results.plan.seeds()) >= FEWEST else keys[:2],
    )
    axes = body.subplots(1, 3, sharey=True)
    titles = (
        "Accuracy\nin points above\ncross-entropy",
        "L_div / ξ\nhigher is\nmore diverse",
        "Overlap\nlower is\nmore diverse",
    )
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=9)
        axis.grid(axis="y", visible=False)
        axis.spines["left"].set_visible(False)
        axis.tick_params(axis="y", length=0)
        axis.xaxis.set_major_locator(MaxNLocator(3))
    axes[0].axvline(0, color=theme.ink, linewidth=1)

    names, y = {}, 0
    edge = blended_transform_factory(body.transSubfigure, axes[0].transData)
    for heading, variants in sections.items():
        label = axes[0].text(0.018, y, heading, transform=edge, va="center", weight="bold", fontsize=9, zorder=5)
        label.set(backgroundcolor=theme.background, in_layout=False)
        label.get_bbox_patch().set_boxstyle("square", pad=0.05)
        for variant in variants:
            y += 1
            names[y] = variant.name
            _draw_variant(axes, results, variant, y, theme)
        y += 1
    axes[0].set_yticks(list(names), list(names.values()))
    axes[0].set_ylim(y - 0.4, -0.6)
    return figure


def _draw_variant(axes: Sequence[Axes], results: Results, variant: Variant, y: int, theme: Theme) -> None:
    is_baseline = variant.settings == variant.baseline
    color = theme.colors["blue" if is_baseline else "orange"]
    if not is_baseline:
        differences = [100 * value for value in results.differences(variant, ACCURACY)]
        if len(differences) >= FEWEST:
            ends = [fmean(differences) + side * interval(differences) for side in (-1, 1)]
            axes[0].plot(ends, [y, y], color=color, linewidth=1.8)
        _draw_values(axes[0], differences, y, color)
    for axis, measure in zip(axes[1:], ("test_diversity_fraction", "test_overlap"), strict=True):
        _draw_values(axis, results.values(variant, measure), y, color)


def _draw_values(axis: Axes, values: list[float], y: int, color: str) -> None:
    axis.add_line(_marks(color, "o", values, [y] * len(values)))
    axis.add_line(_marks(color, "D", [fmean(values)], [y]))
    axis.autoscale_view()


def _marks(color: str, marker: str, x: Sequence[float] = (), y: Sequence[float] = (), label: str = "") -> Line2D:
    seed = {"markersize": 4.5, "alpha": 0.45, "markeredgewidth": 0}
    return Line2D(
        x,
        y,
        color=color,
        marker=marker,
        linestyle="none",
        label=label,
        **(seed if marker == "o" else {"markersize": 5}),
    )
