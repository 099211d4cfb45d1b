"""Fill the tables of README.md and docs/performance.md from the results: `python -m bench page`.

A table stands between two comments, <!-- table: name --> and <!-- end -->, and is replaced by what is in the results.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from .. import results
from ..cases import name_of, real_cases
from ..results import Result, features_bytes, ours_in
from .charts import VARIANTS, variant_of

PAGES = (Path("README.md"), Path("docs/performance.md"))

HEADLINE = (
    "CUB, from scratch, 3 channels a class, 224 pixels",
    "CUB, VGG16 or ResNet18, 224 pixels",
    "CUB, ResNet50, 224 pixels",
    "CUB, ResNet50, 448 pixels",
)

Rows = list[Result]
Item = TypeVar("Item")


def speed(rows: Rows) -> list[str]:
    """For each measured device, our time of a step and how many times as long the others take."""
    lines = []
    measured = [row for row in rows if row.source == "measured" and row.mode == "both" and _has_name(row)]
    for device in _devices([row for row in measured if row.metric == "ratio"]):
        here = [row for row in measured if row.device == device]
        ratios = [row for row in here if row.metric == "ratio"]
        others = _distinct(row.provider for row in ratios)
        ours = ours_in(here)
        lines += [
            f"**{device}** ({_joined(row.versions for row in here)}; commit {_joined(row.commit for row in here)}):",
            "",
            f"| features | | {ours}, ms of wall time | {' | '.join(others)} |",
            "|---" * (3 + len(others)) + "|",
        ]
        for key in _in_order(ratios):
            of = {(row.provider, row.metric): row for row in here if _features(row) == key}
            cells = [f"{of[ours, 'wall'].value:.3g}" if (ours, "wall") in of else "–"]
            cells += [_times(of[name, "ratio"]) if (name, "ratio") in of else "–" for name in others]
            lines.append(_line(_described(key), *cells))
        lines.append("")
    return lines[:-1]


def headline(rows: Rows) -> list[str]:
    """Time and memory of a step of a few networks on the device with the most results, and what a GPU would move."""
    others = ("official", "plain", "plain, compiled")
    here = [row for row in rows if row.mode == "both" and _is_shown(row) and name_of(row.shape) in HEADLINE]
    device = _devices([row for row in here if row.metric == "ratio"])[0]
    measured = [row for row in here if row.device == device]
    counted = [row for row in here if row.source != "measured"]
    ours = ours_in(measured)
    lines = [
        f"Time and memory measured on {device} ({_joined(row.versions for row in measured)}; commit "
        f"{_joined(row.commit for row in measured)}; ours is *{ours}*); reads, writes and launches counted, without a "
        "GPU:",
        "",
        f"| a step, forward + backward | | ours | {' | '.join(others)} | by `python -m bench` |",
        "|---" * (4 + len(others)) + "|",
    ]
    for key in _in_order(measured):
        of = {(row.provider, row.metric): row for row in measured if _features(row) == key}
        cells = [
            f"{_cell(of.get((name, time)), text)}, {_cell(of.get((name, 'peak')), _in_features)}"
            for name, time, text in ((ours, "wall", _milliseconds), *((name, "ratio", _ratio) for name in others))
        ]
        lines.append(_line("time, memory", _shape_of(key), *cells, "`run --full --compiled`"))
    first = _in_order(counted)[0]
    for what, metric, text in (
        ("reads and writes", "traffic", _in_features),
        ("launches", "launches", lambda row: f"{row.value:.0f}"),
    ):
        of_first = {row.provider: row for row in counted if row.metric == metric and _features(row) == first}
        cells = [_cell(of_first.get(name), text) for name in ("ours, Triton", *others)]
        lines.append(_line(f"{what} on a GPU, counted", _shape_of(first), *cells, "`static`"))
    return lines


def ranges(rows: Rows) -> list[str]:
    """How many times our time the others take, from the least to the most over all real shapes, by dtype and layout."""
    ratios = [row for row in rows if row.metric == "ratio" and row.mode == "both" and _has_name(row)]
    kinds = sorted({variant_of(row) for row in ratios}, reverse=True)
    lines = []
    for device in _devices(ratios)[:1]:
        here = [row for row in ratios if row.device == device]
        lines += [f"**{device}**:", "", f"| | {' | '.join(kinds)} |", "|---" * (1 + len(kinds)) + "|"]
        for name in _distinct(row.provider for row in here):
            values = {
                kind: sorted(row.value for row in here if (row.provider, variant_of(row)) == (name, kind))
                for kind in kinds
            }
            lines.append(_line(name, *(_range_of_ratios(of) if of else "–" for of in values.values())))
    return lines


def memory(rows: Rows) -> list[str]:
    """For each measured device, the most memory that a step holds, in units of the features' size."""
    lines = []
    peaks = [row for row in rows if row.metric == "peak" and row.mode == "both" and _is_shown(row)]
    for device in _devices(peaks):
        here = [row for row in peaks if row.device == device]
        names = _distinct(row.provider for row in here)
        lines += [f"**{device}**:", "", f"| features | | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|"]
        for key in _in_order(here):
            of = {row.provider: row.value / features_bytes(row) for row in here if _features(row) == key}
            lines.append(_line(_described(key), *(f"{of[name]:.2f}" if name in of else "–" for name in names)))
        lines.append("")
    return lines[:-1]


def accuracy(rows: Rows) -> list[str]:
    """How far gradients are from the oracle's, by whom: the shapes of CUB, the device with the most results."""
    errors = [row for row in rows if row.metric == "error" and _is_shown(row)]
    here = [row for row in errors if row.device in _devices(errors)[:1] and not row.provider.endswith(", compiled")]
    names = _distinct(row.provider for row in here)
    lines = [f"| features | | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|"]
    for key in _in_order(here):
        of = {row.provider: f"{row.value:.1e}" for row in here if _features(row) == key}
        lines.append(_line(_described(key), *(of.get(name, "–") for name in names)))
    return lines


def counted(rows: Rows) -> list[str]:
    """Launches and bytes of a step for the shapes of CUB, by whom."""
    here = [row for row in rows if row.metric in ("launches", "traffic") and row.mode == "both" and _is_shown(row)]
    names = _distinct(row.provider for row in here)
    lines = [f"| features | | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|"]
    for key in _in_order(here):
        of = {
            (row.provider, row.metric): row.value / (features_bytes(row) if row.metric == "traffic" else 1)
            for row in here
            if _features(row) == key
        }
        cells = [f"{of[name, 'launches']:.0f}, {of[name, 'traffic']:.2f}" for name in names]
        lines.append(_line(_described(key), *cells))
    return lines


def roofline(rows: Rows) -> list[str]:
    """Modelled microseconds of a step for the shapes of CUB, on each GPU."""
    providers = ("ours, Triton, compiled", "ours, Triton", "plain, compiled", "plain", "official")
    here = [row for row in rows if row.metric == "roofline" and row.provider in providers and _is_shown(row)]
    gpus = _distinct(row.device for row in here)
    lines = [f"µs of {'; '.join(providers)}:", ""]
    lines += [f"| features | | {' | '.join(gpus)} |", "|---" * (2 + len(gpus)) + "|"]
    for key in _in_order(here):
        of = {(row.device, row.provider): 1e3 * row.value for row in here if _features(row) == key}
        cells = ["; ".join(f"{of[gpu, name]:.0f}" for name in providers) for gpu in gpus]
        lines.append(_line(_described(key), *cells))
    return lines


def compiled(rows: Rows) -> list[str]:
    """What became of our kernels on each target, from the least to the most over all shapes."""
    kernels = [row for row in rows if ": " in row.provider]
    devices = _distinct(row.device for row in kernels)
    lines = [
        f"| kernel | {' | '.join(device.split()[0] for device in devices)} |",
        "|---" * (1 + len(devices)) + "|",
    ]
    for kernel in sorted({row.provider for row in kernels}):
        cells = []
        for device in devices:
            of = [row for row in kernels if (row.provider, row.device) == (kernel, device)]
            cell = f"{_range(of, 'registers')} registers, {_range(of, 'stack')} bytes of stack"
            if any(row.metric == "spills" for row in of):
                cell += f", {_range(of, 'spills')} spills"
            if any(row.metric == "occupancy" for row in of):
                cell += f", occupancy {_range(of, 'occupancy', 100)} %"
            cells.append(cell)
        lines.append(_line(kernel.split(": ")[1], *cells))
    return lines


TABLES = {
    "speed": speed,
    "ranges": ranges,
    "headline": headline,
    "memory": memory,
    "accuracy": accuracy,
    "counted": counted,
    "roofline": roofline,
    "compiled": compiled,
}


def fill(text: str, rows: Rows) -> str:
    """A page with its tables as the results have them; KeyError for a table that there is not."""

    def table(found: re.Match[str]) -> str:
        return "\n".join([found[1], *TABLES[found[2]](rows), "<!-- end -->"])

    return re.sub(r"(<!-- table: (.*?) -->)\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def _features(row: Result) -> tuple[str, str, str]:
    return row.shape, row.dtype, row.layout


def _in_order(rows: Rows) -> list[tuple[str, str, str]]:
    """The features that the rows are about, in the order of `real_cases`."""
    names = list(real_cases())
    return sorted(_distinct(map(_features, rows)), key=lambda features: names.index(name_of(features[0])))


def _devices(rows: Rows) -> list[str]:
    """The rows' devices, that with the most rows first."""
    return [device for device, _ in Counter(row.device for row in rows).most_common()]


def _described(features: tuple[str, str, str]) -> str:
    return f"{name_of(features[0])} | {_shape_of(features)}"


def _shape_of(features: tuple[str, str, str]) -> str:
    shape, dtype, layout = features
    return f"{shape.replace('x', '×')} {dtype} {layout}"


def _has_name(row: Result) -> bool:
    return name_of(row.shape) != row.shape


def _is_shown(row: Result) -> bool:
    return name_of(row.shape).startswith("CUB") and variant_of(row) in VARIANTS


def _range(rows: Rows, metric: str, factor: float = 1.0) -> str:
    values = sorted({f"{factor * row.value:.0f}" for row in rows if row.metric == metric}, key=float)
    return "–".join(dict.fromkeys((values[0], values[-1])))


def _range_of_ratios(values: list[float]) -> str:
    faster = sum(value < 1 for value in values)
    return f"{values[0]:.2f}× to {values[-1]:.2f}×, faster than ours in {faster} of {len(values)}"


def _cell(row: Result | None, text: Callable[[Result], str]) -> str:
    return "–" if row is None else text(row)


def _milliseconds(row: Result) -> str:
    return f"{row.value:.3g} ms"


def _ratio(row: Result) -> str:
    return f"{row.value:.2f}×"


def _in_features(row: Result) -> str:
    return f"{row.value / features_bytes(row):.2f} F"


def _times(row: Result) -> str:
    return f"{row.value:.2f}× ({row.low:.2f}–{row.high:.2f})"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _joined(texts: Iterable[str]) -> str:
    return " and ".join(_distinct(texts))


def _distinct(items: Iterable[Item]) -> list[Item]:
    return list(dict.fromkeys(items))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results", type=Path, default=results.FOLDER, help="folder of CSV files (default: bench/results)"
    )


def main(arguments: argparse.Namespace) -> None:
    rows = results.read_folder(arguments.results)
    for page in PAGES:
        page.write_text(fill(page.read_text(encoding="utf-8"), rows), encoding="utf-8")
        print(page)
