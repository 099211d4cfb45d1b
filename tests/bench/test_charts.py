"""The figures of the results, from rows that are made here: they show these numbers, and say where they come from."""

from __future__ import annotations

import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from commands import ROOT, made_by
from matplotlib.colors import to_hex
from matplotlib.text import Text

from bench import __main__ as bench
from bench import results
from bench.cases import quick_cases, real_cases, sweeps
from bench.measure import compare
from bench.providers import providers
from bench.report import charts
from bench.report.diagrams import DIAGRAMS
from bench.results import FEATURES, PROVIDER, frame, result, where
from reference.figures.theme import DARK, LIGHT, save, use

CPU, GPU = {"device": "Some CPU", "threads": 2}, {"device": "Some GPU"}
CUB = real_cases(16)["CUB, ResNet50, 224 pixels"]
CARS = real_cases(16)["Cars, VGG16 or ResNet18, 448 pixels"]
KNOWN = {"traffic": "counted", "launches": "counted", "issue time": "modelled", "memory time": "modelled"}
OURS = {"provider": "ours", "backend": "eager"}
KERNELS = {"provider": "ours", "backend": "triton"}
PEERS = [{"provider": name} for name in ("official", "plain", "somebody:loss")] + [
    {"provider": "plain", "compiled": True}
]


def row(metric: str, value: float, case=CUB, **facts: object) -> dict[str, object]:
    facts = {"mode": "both", **CPU, **case.facts, **facts}
    return result(metric, [0.9 * value, value, 1.2 * value], KNOWN.get(metric, "measured"), **facts)


def in_bfloat16(case):
    return replace(case, dtype=torch.bfloat16, layout="channels_last")


def make_rows() -> pd.DataFrame:
    """Rows for every figure; no two values are the same."""
    values = map(float, range(3, 10_000))
    rows = []
    for case in (CUB, CARS, in_bfloat16(CUB)):
        for provider in (OURS, *PEERS):
            rows += [row("wall", next(values), case, mode=mode, **provider) for mode in ("both", "backward")]
            rows += [row("peak", next(values) * case.nbytes, case, **provider)]
        rows += [row("ratio", next(values), case, **provider) for provider in PEERS]
        for provider in (KERNELS, *PEERS):
            rows += [row("traffic", next(values) * case.nbytes, case, **provider, device="GPU", threads=0)]
            rows += [row("launches", next(values), case, **provider, device="GPU", threads=0)]
            rows += [row(name, next(values), case, **provider, device="H200", threads=0) for name in list(KNOWN)[2:]]
        rows += [
            row("ratio", 77.0, case, provider="plain", threads=1),
            row("ratio", 88.0, case, provider="plain", busy=2),
        ]
    for case in {str(case): case for sweep in sweeps().values() for case in sweep.values()}.values():
        rows += [row("wall", next(values), case, **provider) for provider in (OURS, *PEERS)]
    return frame(rows)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return make_rows()


@pytest.fixture(scope="module", params=[LIGHT, DARK], ids=lambda theme: theme.name)
def theme(request):
    return request.param


@pytest.fixture(scope="module")
def figures(rows, theme):
    with use(theme):
        return {name: draw(rows, theme) for name, draw in charts.FIGURES.items()}


def texts_of(figure) -> list[str]:
    return [text.get_text().replace("\n", " ") for text in figure.findobj(Text) if text.get_text()]


def markers(axis) -> dict[str, list[float]]:
    """The values of each provider in a panel, from the top down, by its label."""
    found: dict[str, list[tuple[float, float]]] = {}
    for container in axis.containers:
        value, height = (data[0] for data in container.lines[0].get_data())
        found.setdefault(container.get_label(), []).append((height, value))
    return {name: [value for _, value in sorted(points)] for name, points in found.items()}


def expected(rows, scale=1.0, **facts) -> dict[str, list[float]]:
    """Likewise, the values of the rows with these facts."""
    of = where(rows, mode="both", busy=0, **facts).groupby(PROVIDER, sort=False)
    return {charts.label(*key): pytest.approx(list(scale * group.value)) for key, group in of}


def test_each_figure_names_data_device_and_versions_and_what_is_not_measured(figures) -> None:
    for name, figure in figures.items():
        everything = " ".join(texts_of(figure))
        assert "forward + backward" in everything.lower(), name
        assert f"torch {results.run_facts()['torch']}" in everything, name
        assert results.run_facts()["commit"] in everything, name
        assert ("Some CPU, 2 threads" in everything) == (name in ("speedup", "growth", "memory")), name
        assert ("counted" in everything) == (name in ("bytes_launches", "instructions")), name
        assert ("Nobody has measured this" in everything) == (name == "instructions"), name


def test_speedup_has_a_logarithmic_axis_around_one(figures, rows) -> None:
    """It shows the device with the most threads, quiet."""
    axes = figures["speedup"].axes
    for axis, case in zip(axes, (CUB, in_bfloat16(CUB)), strict=True):
        assert markers(axis) == expected(rows, metric="ratio", threads=2, **case.facts)
        assert axis.get_xscale() == "log"
        assert axis.xaxis.get_transform().base == 2
        (line,) = [line for line in axis.lines if list(line.get_ydata()) == [0, 1]]
        assert set(line.get_xdata()) == {1}
        ours = where(rows, metric="wall", mode="both", **OURS, **case.facts).value.item()
        assert [text.get_text() for text in axis.texts] == [f"{ours:.3g} ms"]
        low, high = axis.get_xlim()
        assert low < 1 < high


def test_a_gpu_is_shown_where_there_is_one(rows) -> None:
    on_gpu = frame(
        [row("ratio", 5.0, provider="plain", **GPU, threads=0), row("wall", 1.0, **KERNELS, **GPU, threads=0)]
    )
    with use(LIGHT):
        figure = charts.speedup(pd.concat([rows, on_gpu]), LIGHT)
    assert markers(figure.axes[0]) == {"plain": [5.0]}
    assert "Some GPU" in " ".join(texts_of(figure))


def test_bars_of_memory_and_bytes_are_in_units_of_the_features(figures, rows) -> None:
    for axis, case in zip(figures["memory"].axes, (CUB, in_bfloat16(CUB)), strict=True):
        assert markers(axis) == expected(rows, 1 / case.nbytes, metric="peak", **case.facts)
    axes = figures["bytes_launches"].axes
    for (traffic, launches), case in zip((axes[:2], axes[2:]), (CUB, in_bfloat16(CUB)), strict=True):
        assert markers(traffic) == expected(rows, 1 / case.nbytes, metric="traffic", **case.facts)
        assert markers(launches) == expected(rows, metric="launches", **case.facts)


def test_instructions_are_markers_and_bytes_are_ticks(figures, rows) -> None:
    for axis, case in zip(figures["instructions"].axes, (CUB, in_bfloat16(CUB)), strict=True):
        assert markers(axis) == expected(rows, metric="issue time", **case.facts)
        ticks = sorted(
            line.get_xdata()[0] for line in axis.lines if line.get_marker() == "|" and len(line.get_xdata()) == 1
        )
        assert ticks == pytest.approx(sorted(where(rows, metric="memory time", **case.facts).value))


def test_growth_has_an_ideal_line_of_slope_one_through_ours(figures, rows) -> None:
    for axis, (dimension, cases) in zip(figures["growth"].axes, sweeps().items(), strict=True):
        assert axis.get_xlabel() == dimension
        assert axis.get_xscale() == axis.get_yscale() == "log"
        lines = {of.get_label(): of.lines[0] for of in axis.containers}
        for provider, label in ((OURS, "ours, eager"), (PEERS[-1], "plain, compiled")):
            values = [where(rows, metric="wall", **provider, **case.facts).value.iloc[0] for case in cases.values()]
            assert [list(data) for data in lines[label].get_data()] == [list(cases), values]
        (ideal,) = [line for line in axis.lines if line.get_label() == "in proportion"]
        x, y = np.log(np.array(ideal.get_data(), dtype=float))
        assert np.polyfit(x, y, 1)[0] == pytest.approx(1)
        ours = np.log(np.array(lines["ours, eager"].get_data(), dtype=float))
        assert np.isclose(np.interp(ours[0], x, y), ours[1]).sum() == 1


def test_a_provider_looks_the_same_everywhere_and_unlike_any_other(figures, rows, theme) -> None:
    looks = charts.looks(rows, theme)
    drawn = [tuple(sorted(look.points(theme).items())) for look in looks.values()]
    assert len({tuple((key, value) for key, value in points if key != "label") for points in drawn}) == len(drawn)
    colors = {}
    for figure in figures.values():
        for axis in figure.axes:
            for container in axis.containers:
                colors.setdefault(container.get_label(), set()).add(to_hex(container.lines[0].get_color()))
    assert all(len(of) == 1 for of in colors.values())
    assert colors["ours, eager"] == {theme.colors["orange"]}
    assert colors["plain"] == colors["plain, compiled"]


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
@pytest.mark.parametrize("name", [*charts.FIGURES, *DIAGRAMS])
def test_no_two_texts_overlap_and_none_leaves_the_figure(name, theme, rows) -> None:
    table = pd.concat([rows, results.read_folder(results.FOLDER)])
    with use(theme):
        figure = (DIAGRAMS[name] if name in DIAGRAMS else partial(charts.FIGURES[name], table))(theme)
        figure.draw_without_rendering()
    texts = set(figure.findobj(Text)) - beyond_the_axes(figure)
    seen = [text for text in texts if text.get_text() and text.get_visible()]
    boxes = [(text.get_window_extent().padded(-1), text) for text in seen]
    for place, (box, text) in enumerate(boxes):
        assert figure.bbox.padded(1).containsx(box.x0), text
        assert figure.bbox.padded(1).containsx(box.x1), text
        for other, other_text in boxes[:place]:
            assert not box.overlaps(other), (text, other_text)
    smallest = min(text.get_fontsize() for text in seen)
    assert smallest / 72 * 400 / figure.get_figwidth() > 7.5  # pixels, in a figure of 400


def beyond_the_axes(figure) -> set[Text]:
    """The labels of ticks beyond the ends of their axis, which are not drawn."""
    axes = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    ticks = [(tick, *sorted(axis.get_view_interval())) for axis in axes for tick in axis.get_major_ticks()]
    return {tick.label1 for tick, low, high in ticks if not low <= tick.get_loc() <= high}


def test_the_files_are_the_same_when_drawn_again(rows, tmp_path: Path) -> None:
    for folder in ("first", "second"):
        save(partial(charts.speedup, rows), tmp_path / folder, "it")
    light, dark = ((tmp_path / "first" / f"it-{name}.svg").read_bytes() for name in ("light", "dark"))
    assert light == (tmp_path / "second" / "it-light.svg").read_bytes()
    assert LIGHT.background.encode() in light
    assert DARK.background.encode() in dark


def test_the_command_draws_what_there_is_and_names_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results.write(tmp_path / "one.csv", frame([row("peak", 1.0, **OURS)]))
    bench.main(["report", "--results", str(tmp_path), "--output", str(tmp_path / "figures")])
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {f"memory-{theme}.svg" for theme in ("light", "dark")}
    lines = capsys.readouterr().out.splitlines()
    absent = [name for name in charts.FIGURES if name != "memory"]
    assert [line for line in lines if "not drawn" in line] == [
        f"{name}: not drawn, there are no results for it" for name in absent
    ]


def test_make_bench_measures_the_rows_of_the_first_figure() -> None:
    """Each marker is a provider on features; none is drawn from elsewhere."""
    (command,) = made_by(["bench"])
    _, arguments = command.split(" -m bench ")
    with patch.object(compare, "main") as run:
        bench.main(shlex.split(arguments))
    (options,) = run.call_args.args
    assert options.compiled
    assert options.modes == ["both"]
    assert not options.full
    rows = results.read_folder(ROOT / "bench" / "results")
    drawn = charts.shown(charts.main_device(where(rows, metric="ratio", mode="both", busy=0)))
    features = set(drawn[FEATURES].itertuples(index=False, name=None))
    assert features == {tuple(case.facts.values()) for case in quick_cases()}
    everyone = {tuple(one.facts[name] for name in PROVIDER) for one in providers(torch.device("cpu"), compiled=True)}
    assert set(drawn[PROVIDER].itertuples(index=False, name=None)) <= everyone
