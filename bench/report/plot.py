"""Draw every figure of the performance page from the results: SVG and PNG, the same files from the same numbers."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from ..cases import CLASSES, name_of, sweeps
from ..count.roofline import LAUNCH_MICROSECONDS
from ..results import FOLDER, Result, features_bytes, ours_in, read_folder
from .charts import VARIANTS, Panel, bars, batch_of, dots, log_ticks, quartiles, variant_of, variants_in
from .style import GREY, Looks, keys_of, looks_of, page, save, style

STEP = "forward + backward"
SHOWN = " and ".join(VARIANTS)
DATA_SET = "CUB"  # whose shapes stand for all where numbers vary little from one data set to the next
QUARTILES = "Median, with the quartiles as lines"
SECOND_LOOK = (
    "Ours: where a cache serves what a program reads again; if it never does, 1 |F| more, in channels_last 2 |F|."
)
FLOOR = 3  # |F|: forward reads the features, backward reads them and writes their gradient
CLOCKS = {  # of a GPU, the innermost first
    "kernel": "kernels, a graph replayed",
    "operator": "operator, with gaps",
    "wall": "wall, as the host sees it",
}
COUNTS = {"traffic": "bytes moved, in |F|", "launches": "kernels launched"}
DRAWN = {*CLOCKS, *COUNTS, "ratio", "peak", "bandwidth", "roofline", "wrong"}
NOT_MEASURED = {
    "counted": "counted",
    "compiled": "read off compiled code",
    "modelled": "modelled (nobody has measured this)",
}


def draw_time(results: Sequence[Result]) -> Figure | None:
    """Time of a step by shape, ours and the eager formulas; on a GPU by each of its clocks."""
    rows = without_sweeps(row for row in select(results, CLOCKS) if not row.provider.endswith((", compiled", "copy")))
    grids = {}
    for heading, here in sections(rows).items():
        clocks = [clock for clock in CLOCKS if any(row.metric == clock for row in here)]
        if len(clocks) > 1:  # side by side, a line for each variant
            grids[heading] = [
                [(f"{CLOCKS[clock]}\n{variant}", of(here, variant, clock)) for clock in clocks]
                for variant in variants_in(here)
            ]
        else:
            grids[heading] = [[(variant, of(here, variant)) for variant in variants_in(here)]]
    return dots(
        grids,
        looks_in(rows, results),
        f"Time of a step{source_of(rows)}: ours against the eager formulas",
        f"Milliseconds, {STEP}, with {samples_in(rows)}; {SHOWN}. {QUARTILES}; less is better.",
        "ms (log scale)",
        notes_on(results),
    )


def draw_speedup(results: Sequence[Result]) -> Figure | None:
    """Time of each peer divided by ours in the same turn, by shape."""
    rows = of_one_data_set(select(results, ["ratio"]))
    grids = {
        f"{heading}  (against {ours_on(results, here)})": [by_provider(here, results)]
        for heading, here in sections(rows).items()
    }
    return bars(
        grids,
        looks_in(rows, results),
        f"Speed-up over each peer{source_of(rows)}",
        f"Time of the peer divided by ours in the same turn, {STEP}, with {samples_in(rows)}; shapes of {DATA_SET}, "
        f"{SHOWN}. {QUARTILES}. "
        "The black line is 1, as fast as ours: who reaches beyond it is slower, who ends before it is faster.",
        units=["times ours"],
        marks=[1],
        notes=notes_on(results),
    )


def draw_growth(results: Sequence[Result]) -> Figure | None:
    """Time of a step against each dimension, with the line of proportional growth."""
    swept = {name: {case.shape: size for size, case in cases.items()} for name, cases in sweeps().items()}
    rows = [
        row
        for here in sections(select(results, CLOCKS)).values()
        for row in here
        if row.metric == clock_in(here) and variant_of(row) == VARIANTS[0] and row.provider != "copy"
        if any(row.shape in sizes for sizes in swept.values())
    ]
    if not rows:
        return None
    looks = looks_in(rows, results)
    proportional: dict[str, Any] = {
        "color": GREY,
        "linestyle": ":",
        "linewidth": 1.2,
        "label": "in proportion to the size",
    }
    figure, parts = page(
        f"Time of a step as each dimension grows{source_of(rows)}",
        f"{STEP.capitalize()}, {VARIANTS[0]}; one dimension varies, the others stay at B = 8, C = 200, ξ = 4, P = 196. "
        f"{QUARTILES}; both scales are logarithmic.",
        [*keys_of(looks, joined=True), Line2D([], [], **proportional)],
        dict.fromkeys(sections(rows), 2.4),
        notes_on(results),
    )
    for part, here in zip(parts, sections(rows).values(), strict=True):
        shown = {name: sizes for name, sizes in swept.items() if any(row.shape in sizes for row in here)}
        axes = part.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        ideals = []
        for axis, (dimension, sizes) in zip(axes, shown.items(), strict=True):
            axis.loglog()
            for name, look in looks.items():
                points = {
                    sizes[row.shape]: row
                    for row in sorted(here, key=lambda row: sizes.get(row.shape, 0))
                    if row.provider == name and row.shape in sizes
                }
                own = list(points.values())
                options = look.points(joined=True) | {"elinewidth": 1, "label": name}
                axis.errorbar(list(points), [row.value for row in own], yerr=quartiles(own), **options)
                if points and name == ours_on(results, here):
                    middle = list(points)[len(points) // 2]
                    ends = [min(points), max(points)]
                    ideals.append((axis, ends, [points[middle].value * end / middle for end in ends]))
            axis.set_xlabel(dimension)
            axis.set_xticks(list(sizes.values()), [f"{size:,}" for size in sizes.values()])
            axis.xaxis.set_minor_locator(NullLocator())
        limits = axes[0].get_ylim()  # of what was measured
        for axis, ends, values in ideals:
            axis.plot(ends, values, **proportional)
        for axis in axes:
            log_ticks(axis.yaxis, limits, labels=7)
        axes[0].set_ylim(limits)
        axes[0].set_ylabel("ms" if clock_in(here) == "wall" else f"ms, {CLOCKS[clock_in(here)]}")
    return figure


def draw_memory(results: Sequence[Result]) -> Figure | None:
    """Peak memory of a step beyond the features, in their size, by shape."""
    rows = [in_features(row) for row in of_one_data_set(select(results, ["peak"]))]
    return bars(
        {heading: [by_provider(here, results)] for heading, here in sections(rows).items()},
        looks_in(rows, results),
        f"Peak memory of a step{source_of(rows)}, beyond the features",
        f"In units of |F|, the bytes of the features; {STEP}; shapes of {DATA_SET}, {SHOWN}; less is better. The black "
        "line is 1 |F|, the gradient, which no implementation can do without.",
        units=["|F|"],
        marks=[1],
        notes=notes_on(results),
    )


def draw_bytes_and_launches(results: Sequence[Result]) -> Figure | None:
    """What a step asks of a GPU: bytes moved, in the size of the features, and kernels launched."""
    rows = of_one_data_set(select(results, COUNTS))
    rows = [in_features(row) if row.metric == "traffic" else row for row in rows]
    # Ours are counted, compiled ones read off code for some GPU: they are compared all the same.
    devices = "; ".join(
        dict.fromkeys(
            row.device + ", for torch.compile" * (row.source == "compiled") for row in rows if row.source != "measured"
        )
    )
    rows = [row if row.source == "measured" else replace(row, device=devices) for row in rows]
    counts = [metric for metric in COUNTS if any(row.metric == metric for row in rows)]
    return bars(
        {
            heading: [
                by_provider(here, results, shown=[row for row in here if row.metric == metric]) for metric in counts
            ]
            for heading, here in sections(rows).items()
        },
        looks_in(rows, results),
        f"Bytes moved and kernels launched in a step{source_of(rows)}",
        f"{STEP.capitalize()}; shapes of {DATA_SET}, {SHOWN}; less is better. |F|: the bytes of the features. The "
        f"black line is {FLOOR} |F|, the least possible: forward reads the features, backward reads them and writes "
        f"their gradient. {SECOND_LOOK}",
        units=[COUNTS[metric] for metric in counts],
        marks=[FLOOR if metric == "traffic" else None for metric in counts],
    )


def draw_roofline(results: Sequence[Result]) -> Figure | None:
    """Modelled time of a step on each GPU, by shape."""
    rows = [in_units(row, 1e3) for row in of_one_data_set(select(results, ["roofline"]))]
    devices = list(dict.fromkeys(row.device for row in rows))
    return dots(
        {
            variant: [[(device, [row for row in of(rows, variant) if row.device == device]) for device in devices]]
            for variant in variants_in(rows)
        },
        looks_in(rows, results),
        f"Time of a step on GPUs{source_of(rows)}",
        f"Microseconds, {STEP}: bytes by the published bandwidth, and {LAUNCH_MICROSECONDS:g} µs for each launch; "
        f"shapes of {DATA_SET}; less is better. {SECOND_LOOK} Compiled: code generated for an H100. "
        f"{'; '.join(dict.fromkeys(row.versions for row in rows))}.",
        "µs (log scale)",
    )


def draw_bandwidth(results: Sequence[Result]) -> Figure | None:
    """What is reached of a device's bandwidth, beside a copy in the same run."""
    rows = without_sweeps(select(results, ["bandwidth"]))
    return dots(
        {
            heading: [[(variant, of(here, variant)) for variant in variants_in(here)]]
            for heading, here in sections(rows).items()
        },
        looks_in(rows, results),
        f"Bandwidth reached{source_of(rows)}",
        f"GB/s, {STEP}: the least bytes that have to be moved, by time; {SHOWN}. {QUARTILES}; more is better. The copy "
        "is PyTorch's own, of the features, in the same run.",
        "GB/s (log scale)",
        notes_on(results),
    )


FIGURES: dict[str, Callable[[Sequence[Result]], Figure | None]] = {
    "time": draw_time,
    "speedup": draw_speedup,
    "growth": draw_growth,
    "memory": draw_memory,
    "bytes_launches": draw_bytes_and_launches,
    "roofline": draw_roofline,
    "bandwidth": draw_bandwidth,
}


def draw(name: str, results: Sequence[Result]) -> Figure | None:
    """A figure of `FIGURES`; None where the results have no row for it."""
    with style():
        return FIGURES[name]([row for row in results if row.metric in DRAWN])


def select(results: Sequence[Result], metrics: Iterable[str]) -> list[Result]:
    """The newest rows of whole steps with these metrics, in the variants that are shown, of who computes the loss."""
    metrics = set(metrics)
    wrong = {place_of(row) for row in results if row.metric == "wrong"}
    newest = {
        (place_of(row), row.metric): row
        for row in sorted(results, key=lambda row: row.date)
        if row.metric in metrics and row.mode in ("both", "copy") and variant_of(row) in VARIANTS
    }
    return [row for (place, _), row in newest.items() if place not in wrong]


def place_of(row: Result) -> tuple[str, ...]:
    """Who was given what, and where."""
    return (row.provider, row.shape, row.dtype, row.layout, row.device, row.versions)


def notes_on(results: Sequence[Result]) -> list[str]:
    """A sentence for each provider that computes something else."""
    notes = []
    for name in sorted({row.provider for row in results if row.metric == "wrong"}):
        places = {place_of(row) for row in results if row.provider == name}
        wrong = {place_of(row) for row in results if row.provider == name and row.metric == "wrong"}
        where = "" if wrong == places else f" in {len(wrong)} of {len(places)} cases"
        notes.append(f"{name} computes another loss{where} and is left out{' there' if where else ''}.")
    return notes


def sections(rows: Iterable[Result]) -> dict[str, list[Result]]:
    """The rows by device and versions, as a heading names them."""
    parts: dict[str, list[Result]] = {}
    for row in sorted(rows, key=lambda row: (row.device, row.versions)):
        parts.setdefault(f"{row.device} · {row.versions}", []).append(row)
    return parts


def without_sweeps(rows: Iterable[Result]) -> list[Result]:
    """The rows of features that somebody trains with."""
    swept = {case.shape for cases in sweeps().values() for case in cases.values()}
    return [row for row in rows if row.shape not in swept]


def of_one_data_set(rows: Iterable[Result]) -> list[Result]:
    """Without sweeps and, unless nothing else is there, without the other data sets."""
    rows = without_sweeps(rows)
    others = tuple(f"{name}," for name in CLASSES if name != DATA_SET)
    return [row for row in rows if not name_of(row.shape).startswith(others)] or rows


def of(rows: Iterable[Result], variant: str, metric: str | None = None) -> list[Result]:
    """The rows of a variant, and of a metric if one is given."""
    return [row for row in rows if variant_of(row) == variant and metric in (None, row.metric)]


def by_provider(
    rows: Sequence[Result], results: Sequence[Result], shown: Sequence[Result] | None = None
) -> list[Panel]:
    """A panel for each of the rows' providers, with its rows, or those of them that are shown."""
    shown = rows if shown is None else shown
    return [(name, [row for row in shown if row.provider == name]) for name in looks_in(rows, results)]


def looks_in(rows: Iterable[Result], results: Iterable[Result]) -> Looks:
    """The looks of the rows' providers, chosen among all results', so that they are the same in every figure."""
    there = {row.provider for row in rows}
    return {name: look for name, look in looks_of(row.provider for row in results).items() if name in there}


def ours_on(results: Iterable[Result], rows: Sequence[Result]) -> str:
    """Which of ours the others are compared with on the rows' device."""
    place = (rows[0].device, rows[0].versions)
    return ours_in(row for row in results if (row.device, row.versions) == place)


def clock_in(rows: Iterable[Result]) -> str:
    """What a step is timed by where it grows: a GPU's own clock where there is one."""
    return "operator" if any(row.metric == "operator" for row in rows) else "wall"


def source_of(rows: Iterable[Result]) -> str:
    """For a title: where the numbers come from, unless they were measured."""
    sources = {row.source for row in rows}
    words = [words for source, words in NOT_MEASURED.items() if source in sources]
    return ", " + " and ".join(words) if words else ""


def samples_in(rows: Iterable[Result]) -> str:
    """The batch size, for a subtitle."""
    return " or ".join(map(str, sorted({batch_of(row.shape) for row in rows}))) + " samples"


def in_units(row: Result, factor: float) -> Result:
    """The same row with its numbers multiplied."""
    return replace(row, value=factor * row.value, low=factor * row.low, high=factor * row.high)


def in_features(row: Result) -> Result:
    """A row of bytes in units of |F|."""
    return in_units(row, 1 / features_bytes(row))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m bench plot`."""
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of CSV files (default: bench/results)")
    parser.add_argument(
        "--output", type=Path, default=Path("docs/figures"), help="folder of the figures (default: docs/figures)"
    )


def main(arguments: argparse.Namespace) -> None:
    """Draw what there are results for, and say what there are none for."""
    results = read_folder(arguments.results)
    for name in FIGURES:
        figure = draw(name, results)
        if figure is None:
            print(f"{name}: not drawn, there are no results for it")
        else:
            save(figure, arguments.output, name)
            print(f"{name}: {arguments.output / name}.svg and .png")
