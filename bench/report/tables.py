"""The tables of the pages, as lines of Markdown made from the results.

A table stands in a page between two comments, <!-- table: name --> and <!-- end -->.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import pandas as pd

from ..count.instructions import H200
from ..providers import label
from ..results import DEVICE, FEATURES, PROVIDER, where
from .charts import in_features, main_device, on, shown, sources

Table = pd.DataFrame
NO_LOSS = "no MC-Loss"  # the provider of a training step without one


def speed(results: Table) -> list[str]:
    """For each device, our time of a step on the shapes of CUB, and how many times as long the others take."""
    return _by_device(where(results, mode="both", known="measured", busy=0))


def busy(results: Table) -> list[str]:
    """`speed` while as many other processes spin as there are cores."""
    return _by_device(where(results[results.busy > 0], mode="both", known="measured"))


def _by_device(results: Table) -> list[str]:
    steps = shown(results)
    lines = []
    devices = [here for _, here in steps.groupby(DEVICE, sort=False)]
    for here in sorted(devices, key=lambda here: here.iloc[0].threads > 0):  # a GPU has none, and leads
        ours, ratios = where(main_provider(here), metric="wall"), where(here, metric="ratio")
        cells = pd.concat([cells_of(ours, "{value:.3g} ms"), cells_of(ratios, "{value:.2f}× ({low:.2f}–{high:.2f})")])
        lines += [f"**{on(here).removeprefix(' on ')}** ({sources(here)})", "", *by_features(cells), ""]
    return lines[:-1]


def ranges(results: Table) -> list[str]:
    """The least and the largest ratio of each peer over all real shapes, by dtype and layout, on the main device."""
    rows = main_device(where(results, metric="ratio", mode="both", busy=0))
    rows = rows[rows.network != ""]
    rows = rows.assign(kind=rows.dtype + " " + rows.layout)
    cells = rows.groupby(["kind", *PROVIDER], sort=False).value.agg(_range_of_ratios).reset_index(name="cell")
    return [f"**{on(rows).removeprefix(' on ')}**:", "", *pivot(cells, ["kind"], [""], lambda kind: [kind])]


def accuracy(results: Table) -> list[str]:
    """The error of each gradient against the oracle's, on the main device."""
    rows = shown(main_device(where(results, metric="error", compiled=False, busy=0)))
    return by_features(cells_of(rows, "{value:.1e}"))


def counted(results: Table) -> list[str]:
    """Launches and bytes of a step on the shapes of CUB."""
    rows = shown(where(results, mode="both", kernel="", known="counted"))
    launches, traffic = where(rows, metric="launches"), in_features(where(rows, metric="traffic"))
    cells = cells_of(launches, "{value:.0f}").merge(cells_of(traffic, "{value:.2f}"), on=[*FEATURES, *PROVIDER])
    return by_features(cells.assign(cell=cells.cell_x + ", " + cells.cell_y))


def modelled(results: Table) -> list[str]:
    """Microseconds of a step on an H200: by the model, and in it those of bytes and of instructions."""
    rows = shown(where(results, device=H200.name, mode="both", kernel=""))
    model, memory, issue = (
        cells_of(where(rows, metric=metric), "{value:.1f}") for metric in ("modelled time", "memory time", "issue time")
    )
    cells = model.merge(memory, on=[*FEATURES, *PROVIDER]).merge(issue, on=[*FEATURES, *PROVIDER], how="left")
    return by_features(cells.assign(cell=cells.cell_x + ": " + cells.cell_y + ", " + cells.cell.fillna("–")))


def compiled(results: Table) -> list[str]:
    """Registers, stack and spills of our kernels on each target, from the least to the most over all shapes."""
    rows = where(results[results.kernel != ""], metric=["registers", "stack", "spills"])
    spans = rows.groupby(["kernel", "device", "metric"]).value.agg(_range).unstack(fill_value="–")
    cells = spans.registers.str.cat([spans["stack"], spans.spills], sep=", ").unstack(fill_value="–")
    targets = list(dict.fromkeys(rows.device))
    return markdown(["kernel", *targets], [[str(kernel), *cells.loc[kernel, targets]] for kernel in cells.index])


def training_step(results: Table) -> list[str]:
    """A whole training step, without MC-Loss and with each, in each way to run it, and the share of the loss in it."""
    steps = main_device(where(results, mode="training step", metric=["wall", "kernel"], known="measured", busy=0))
    if steps.empty:
        return ["Not measured yet."]
    way = steps.compiled.map({True: "torch.compile", False: "eager"}).where(steps.metric == "wall", "CUDA graph")
    times = steps.assign(way=way).pivot_table("value", "way", "provider", sort=False)
    without = times[NO_LOSS]
    lines = [
        [
            name,
            *(f"{time:.3g} ms" + f" ({1 - without[name] / time:.1%})" * (who != NO_LOSS) for who, time in row.items()),
        ]
        for name, row in times.iterrows()
    ]
    facts = steps.iloc[0]
    what = f"{facts.network}, {facts.samples} images of {facts.pixels} px, {facts['dtype']}, {facts.layout}"
    return [
        f"**{on(steps).removeprefix(' on ')}**, {what} ({sources(steps)})",
        "",
        *markdown(["", *times.columns], lines),
    ]


TABLES: dict[str, Callable[[Table], list[str]]] = {
    "speed": speed,
    "busy": busy,
    "ranges": ranges,
    "accuracy": accuracy,
    "counted": counted,
    "modelled": modelled,
    "compiled": compiled,
    "training step": training_step,
}


def fill(text: str, results: Table) -> str:
    """A page with its tables made anew; KeyError for a table that does not exist."""

    def table(found: re.Match[str]) -> str:
        return "\n".join([found[1], *TABLES[found[2]](results), "<!-- end -->"])

    return re.sub(r"(<!-- table: (.*?) -->)\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def main_provider(rows: Table) -> Table:
    """The rows of ours: of the kernels where they ran."""
    ours = where(rows, provider="ours", compiled=False)
    return where(ours, backend="triton") if "triton" in set(ours.backend) else ours


def cells_of(rows: Table, text: str) -> Table:
    """The features and provider of each row, and its numbers as text in the column "cell"."""
    cells = [text.format(value=row.value, low=row.low, high=row.high) for row in rows.itertuples()]
    return rows[[*FEATURES, *PROVIDER]].assign(cell=cells)


def by_features(cells: Table) -> list[str]:
    """A table with a line per case and a column per provider."""

    def first(*facts: object) -> list[str]:
        of = dict(zip(FEATURES, facts, strict=True))
        shape = f"{of['samples']}×{of['channels']}×{of['side']}×{of['side']}"
        groups = str(of["groups"]).replace("x", "×")
        return [f"{of['network']}, {of['pixels']} px", f"{shape} ({groups})", f"{of['dtype']}, {of['layout']}"]

    return pivot(cells, FEATURES, ["", "features", ""], first)


def pivot(cells: Table, index: list[str], heads: list[str], first: Callable[..., list[str]]) -> list[str]:
    """A table with a line per value of the index, begun by the cells of `first`, and a column per provider."""
    columns = list(cells[PROVIDER].drop_duplicates().itertuples(index=False, name=None))
    lines = []
    for facts, line in cells.groupby(index, sort=False):
        of = {tuple(row[:-1]): row[-1] for row in line[[*PROVIDER, "cell"]].itertuples(index=False)}
        lines.append([*first(*facts), *(of.get(column, "–") for column in columns)])
    return markdown([*heads, *(label(*column) for column in columns)], lines)


def markdown(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown."""
    return ["| " + " | ".join(cells) + " |" for cells in [heads, ["---"] * len(heads), *lines]]


def _range(values: pd.Series) -> str:
    return "–".join(dict.fromkeys((f"{values.min():.0f}", f"{values.max():.0f}")))


def _range_of_ratios(values: pd.Series) -> str:
    return f"{values.min():.2f}× to {values.max():.2f}×, faster than ours in {(values < 1).sum()} of {len(values)}"
