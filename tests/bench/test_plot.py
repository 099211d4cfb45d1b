"""The figures of the performance page, from rows that are made here."""

import argparse
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.text import Text
from PIL import Image

from bench.cases import Case, real_cases, sweeps
from bench.report import plot
from bench.results import Result, write
from mcl_triton import ChannelGroups

PROCESSOR, GPU = "Some Processor, 2 threads", "Some GPU"
VERSIONS = "Python 3.11.1, torch 2.9.0, triton 3.5.0"
SOURCES = {"traffic": "counted", "launches": "counted", "roofline": "modelled"}
CUB = real_cases(16)["CUB, ResNet50, 224 pixels"]
CARS = real_cases(16)["Cars, VGG16 or ResNet18, 448 pixels"]
OWN = Case(16, ChannelGroups([2, 3]), 5)  # features of a user
PEERS = ("official", "plain", "somebody:loss", "official, compiled")
EVERYONE = ("ours, eager", *PEERS)


def result(provider, case, metric, value, device=PROCESSOR, mode="both", **changed):
    row = Result(
        provider,
        case.shape,
        case.dtype_name,
        case.layout,
        mode,
        metric,
        value,
        0.9 * value,
        1.2 * value,
        5,
        SOURCES.get(metric, "measured"),
        device,
        VERSIONS,
        "0123456789",
        "2025-01-01",
    )
    return replace(row, **changed)


def in_bfloat16(case):
    return replace(case, dtype=torch.bfloat16, layout="channels_last")


def make_rows():
    """Rows for every figure; no two values are the same."""
    values = iter(range(1, 10_000))
    rows = []
    for case in (CARS, OWN, CUB, *map(in_bfloat16, (CUB, CARS, OWN))):
        for name in EVERYONE:
            rows += [result(name, case, "wall", next(values), mode=mode) for mode in ("both", "backward", "forward")]
            rows.append(result(name, case, "peak", case.nbytes * (1 + next(values) / 64)))
            rows += [result(name, case, metric, next(values), GPU) for metric in ("kernel", "operator", "wall")]
            for metric in ("traffic", "launches"):
                rows.append(result(name, case, metric, next(values) * (case.nbytes if metric == "traffic" else 1)))
            rows += [result(name, case, "roofline", next(values) / 1024, device) for device in ("A100", "MI300X")]
            rows.append(result(name, case, "bandwidth", next(values), GPU))
        rows += [result(name, case, "ratio", next(values)) for name in PEERS]
        rows.append(result("copy", case, "bandwidth", next(values), GPU, mode="copy"))
        rows.append(result("copy", case, "wall", next(values), GPU, mode="copy"))
        rows.append(result("Holocron", case, "wrong", 0.25))
    for case in {str(case): case for sweep in sweeps().values() for case in sweep.values()}.values():
        rows += [result(name, case, "wall", next(values)) for name in EVERYONE]
    return rows


@pytest.fixture(scope="module")
def rows():
    return make_rows()


@pytest.fixture(scope="module")
def figures(rows):
    return {name: plot.draw(name, rows) for name in plot.FIGURES}


def texts_of(figure):
    return [text.get_text().replace("\n", " ") for text in figure.findobj(Text) if text.get_text()]


def axes_of(figure):
    """The panels; those of nested subfigures are listed by each figure around them."""
    return list(dict.fromkeys(figure.get_axes()))


def drawn_at(axis, containers):
    """What is drawn in a panel: by the name beside it, its values from the top down."""
    neighbours = axis.get_shared_y_axes().get_siblings(axis)  # one of them has the names
    names = max(([label.get_text() for label in of.get_yticklabels()] for of in neighbours), key=len)
    found = {name: [] for name in names}
    for container in containers:
        if isinstance(container, BarContainer):
            points = [(bar.get_width(), bar.get_y() + bar.get_height() / 2) for bar in container.patches]
        else:
            points = zip(*container.lines[0].get_data(), strict=True)
        for value, height in points:
            assert abs(height - round(height)) < 0.45
            found[names[round(height)]].append((height, value))
    return {name: [value for _, value in sorted(points)] for name, points in found.items()}


def bars_in(axis):
    return drawn_at(axis, [of for of in axis.containers if isinstance(of, BarContainer)])


def dots_in(axis, provider):
    return drawn_at(axis, [of for of in axis.containers if of.get_label() == provider])


def value_of(rows, provider, case, metric, device):
    """The value of the only such row of a step."""
    (row,) = [
        row
        for row in rows
        if (row.provider, row.shape, row.dtype, row.metric, row.device)
        == (provider, case.shape, case.dtype_name, metric, device)
        and row.mode in ("both", "copy")
    ]
    return row.value


NAMES = {"CUB, ResNet50, 224 pixels": CUB, "Cars, VGG16 or ResNet18, 448 pixels": CARS, OWN.shape: OWN}


def both_values(rows, provider, case, metric, device, unit=lambda case: 1):
    variants = (case, in_bfloat16(case))
    return [value_of(rows, provider, variant, metric, device) / unit(variant) for variant in variants]


@pytest.mark.parametrize("name", plot.FIGURES)
def test_titles_name_what_is_drawn_and_what_was_not_measured(figures, name):
    """Device and versions are there, and nobody can take a count or a model for a measurement."""
    texts = texts_of(figures[name])
    everything = " ".join(texts)
    assert VERSIONS in everything
    for device in {"roofline": ("A100", "MI300X"), "bandwidth": (GPU,), "time": (PROCESSOR, GPU)}.get(
        name, [PROCESSOR]
    ):
        assert device in everything
    (title,) = [text.get_text() for text in figures[name].findobj(Text) if text.get_fontsize() == 11.5]
    expected = {"bytes_launches": ", counted", "roofline": ", modelled (nobody has measured this)"}.get(name, "")
    assert [words for words in (", counted", ", modelled (nobody has measured this)") if words in title] == [
        words for words in [expected] if words
    ]


@pytest.mark.parametrize("name", plot.FIGURES)
def test_every_provider_is_named_and_looks_the_same_everywhere(figures, name):
    """Bars have a column each, with a title; markers and lines are in the legend."""
    named = {
        "time": ["ours, eager", "official", "plain", "somebody:loss"],
        "speedup": PEERS,
        "bandwidth": [*EVERYONE, "copy"],
    }.get(name, EVERYONE)
    axes = axes_of(figures[name])
    if name in ("speedup", "memory", "bytes_launches"):
        columns = [axis.get_title(loc="left").replace("\n", " ") for axis in axes]
        assert set(columns) == set(named)
        colors = {column: to_hex(axis.patches[-1].get_facecolor()) for column, axis in zip(columns, axes, strict=True)}
    else:
        (legend,) = [legend for part in figures[name].subfigs for legend in part.legends]
        labels = [text.get_text() for text in legend.get_texts()]
        assert set(labels) - {"in proportion to the size"} == set(named)
        lines = dict(zip(labels, legend.get_lines(), strict=True))
        colors = {label: to_hex(lines[label].get_color()) for label in named}
        # Whoever shares a colour is told apart by the marker: hollow where it is compiled.
        assert len({(line.get_marker(), to_hex(line.get_markerfacecolor())) for line in lines.values()}) == len(lines)
        for axis in axes:
            for container in axis.containers:
                assert to_hex(container.lines[0].get_color()) == colors[container.get_label()]
    known = {"ours, eager": "#0072b2", "official": "#e69f00", "plain": "#009e73", "somebody:loss": "#56b4e9"}
    assert {provider: color for provider, color in colors.items() if provider in known} == {
        provider: color for provider, color in known.items() if provider in named
    }


def test_time_shows_whole_steps_and_each_clock_of_a_gpu(figures, rows):
    axes = axes_of(figures["time"])
    panels = [
        (case_of, metric, device)
        for case_of, metric, device in [
            *[
                (of, metric, GPU)
                for of in (lambda case: case, in_bfloat16)
                for metric in ("kernel", "operator", "wall")
            ],
            *[(of, "wall", PROCESSOR) for of in (lambda case: case, in_bfloat16)],
        ]
    ]
    assert len(axes) == len(panels)
    for axis, (case_of, metric, device) in zip(axes, panels, strict=True):
        assert axis.get_xscale() == "log"
        for provider in ("ours, eager", "official", "plain", "somebody:loss"):
            assert dots_in(axis, provider) == {
                name: [value_of(rows, provider, case_of(case), metric, device)] for name, case in NAMES.items()
            }


def test_speedup_bars_are_as_long_as_the_ratios(figures, rows):
    axes = axes_of(figures["speedup"])
    for axis in axes:
        peer = axis.get_title(loc="left").replace("\n", " ")
        assert bars_in(axis) == {
            name: both_values(rows, peer, case, "ratio", PROCESSOR)
            for name, case in NAMES.items()
            if name != CARS_NAME  # of another data set
        }
        (mark,) = [line for line in axis.lines if len(line.get_xdata()) == 2 and set(line.get_ydata()) == {0, 1}]
        assert set(mark.get_xdata()) == {1}
        bars = [of for of in axis.containers if isinstance(of, BarContainer)]
        assert [bar.patches[0].get_hatch() is None for bar in bars] == [True, False]
        for bar in bars:  # the quartiles
            ends = bar.errorbar.lines[2][0].get_segments()
            np.testing.assert_allclose(
                [end[:, 0] for end in ends], [[0.9 * b.get_width(), 1.2 * b.get_width()] for b in bar]
            )
    assert any(text.endswith("(against ours, eager)") for text in texts_of(figures["speedup"]))


def test_bars_are_numbered(figures):
    """By two figures of the value, or by a whole number."""
    for axis in axes_of(figures["speedup"]):
        values = [value for of in bars_in(axis).values() for value in of]
        assert sorted(text.get_text() for text in axis.texts) == sorted(f"{value:,}" for value in values)
    peaks = [axis for axis in axes_of(figures["memory"]) if axis.get_title(loc="left") == "plain"]
    values = sorted(value for of in bars_in(peaks[0]).values() for value in of)
    numbers = sorted(float(text.get_text()) for text in peaks[0].texts)
    for value, number in zip(values, numbers, strict=True):
        assert number == pytest.approx(value, abs=0.5 if value >= 9.95 else 0.05)


def test_growth_has_an_ideal_line_of_slope_one_through_ours(figures, rows):
    axes = axes_of(figures["growth"])
    assert [axis.get_xlabel() for axis in axes] == list(sweeps())
    for axis, cases in zip(axes, sweeps().values(), strict=True):
        assert axis.get_xscale() == axis.get_yscale() == "log"
        lines = {of.get_label(): of.lines[0] for of in axis.containers if isinstance(of, ErrorbarContainer)}
        assert set(lines) == set(EVERYONE)
        for provider, line in lines.items():
            assert list(line.get_xdata()) == list(cases)
            expected = [value_of(rows, provider, case, "wall", PROCESSOR) for case in cases.values()]
            assert list(line.get_ydata()) == expected
        (ideal,) = [line for line in axis.lines if line.get_label() == "in proportion to the size"]
        x, y = np.log(np.array(ideal.get_data(), dtype=float))
        assert np.polyfit(x, y, 1)[0] == pytest.approx(1)
        ours_x, ours_y = np.log(np.array(lines["ours, eager"].get_data(), dtype=float))
        assert np.isclose(np.interp(ours_x, x, y), ours_y).sum() == 1


def test_memory_and_bytes_are_in_units_of_the_features(figures, rows):
    """The shapes of the other data sets are left out."""
    names = {name: case for name, case in NAMES.items() if case is not CARS}
    for axis in axes_of(figures["memory"]):
        provider = axis.get_title(loc="left").replace("\n", " ")
        expected = {
            n: both_values(rows, provider, case, "peak", PROCESSOR, lambda of: of.nbytes) for n, case in names.items()
        }
        assert {n: pytest.approx(values) for n, values in expected.items()} == bars_in(axis)
    panels = axes_of(figures["bytes_launches"])
    for place, axis in enumerate(panels):
        provider = axis.get_title(loc="left").replace("\n", " ")
        is_traffic = place < len(panels) // 2
        metric, unit = ("traffic", lambda of: of.nbytes) if is_traffic else ("launches", lambda of: 1)
        expected = {n: both_values(rows, provider, case, metric, PROCESSOR, unit) for n, case in names.items()}
        assert {n: pytest.approx(values) for n, values in expected.items()} == bars_in(axis)
        marks = [line for line in axis.lines if len(line.get_xdata()) == 2 and set(line.get_ydata()) == {0, 1}]
        assert [set(line.get_xdata()) for line in marks] == ([{3}] if is_traffic else [])


def test_roofline_is_in_microseconds(figures, rows):
    axes = axes_of(figures["roofline"])
    assert [axis.get_title(loc="left") for axis in axes] == 2 * ["A100", "MI300X"]
    for place, axis in enumerate(axes):
        for provider in EVERYONE:
            for name, values in dots_in(axis, provider).items():
                case = NAMES[name] if place < 2 else in_bfloat16(NAMES[name])
                milliseconds = value_of(rows, provider, case, "roofline", axis.get_title(loc="left"))
                assert values == [pytest.approx(1000 * milliseconds)]


def test_bandwidth_has_the_copy_beside(figures, rows):
    for axis, case_of in zip(axes_of(figures["bandwidth"]), (lambda case: case, in_bfloat16), strict=True):
        assert axis.get_xscale() == "log"
        for provider in (*EVERYONE, "copy"):
            assert dots_in(axis, provider) == {
                name: [value_of(rows, provider, case_of(case), "bandwidth", GPU)] for name, case in NAMES.items()
            }


def test_no_two_names_or_numbers_overlap(figures):
    for name, figure in figures.items():
        figure.draw_without_rendering()
        unseen = {
            tick.label1
            for axis in axes_of(figure)
            for line, (low, high) in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, sorted(axis.get_ylim())))
            for tick in line.get_major_ticks()
            if not low <= tick.get_loc() <= high
        }
        boxes = []
        for text in figure.findobj(Text):
            if text.get_text() and text.get_visible() and text not in unseen:
                box = text.get_window_extent()
                assert figure.bbox.padded(1).containsx(box.x0), (name, text)
                assert figure.bbox.padded(1).containsx(box.x1), (name, text)
                boxes.append((box.padded(-1), text))
        for place, (box, text) in enumerate(boxes):
            for other, other_text in boxes[:place]:
                assert not box.overlaps(other), (name, text, other_text)


def test_who_is_wrong_is_mentioned_and_not_drawn(rows):
    """Even if there are times; elsewhere than where it is wrong it is drawn."""
    timed = [result("Holocron", CUB, metric, 3.0) for metric in ("wall", "ratio", "peak")]
    some = result("plain", CUB, "wrong", 0.5)
    for name in ("time", "speedup", "memory"):
        figure = plot.draw(name, [*rows, *timed, some])
        texts = texts_of(figure)
        notes = texts[-1]
        assert "Holocron computes another loss and is left out." in notes
        cases = len({(row.shape, row.dtype, row.device) for row in rows if row.provider == "plain"})
        assert f"plain computes another loss in 1 of {cases} cases and is left out there." in notes
        assert not any(text.startswith("Holocron") and "another loss" not in text for text in texts)
    of_plain = dots_in(axes_of(plot.draw("time", [*rows, some]))[-2], "plain")
    assert of_plain[CARS_NAME]
    assert not of_plain[CUB_NAME]


CUB_NAME, CARS_NAME, _ = NAMES


def test_the_newest_of_several_results_is_drawn(rows):
    newer = result("plain", CUB, "wall", 12345.0, date="2025-01-02")
    for several in ([newer, *rows], [*rows, newer]):
        assert dots_in(axes_of(plot.draw("time", several))[-2], "plain")[CUB_NAME] == [12345]


def test_what_is_counted_and_what_is_compiled_are_compared(rows):
    """In one panel for each provider, wherever its numbers come from; kernels' registers take no provider's colour."""
    compiled = result("plain, compiled", CUB, "launches", 7.0, "H100 (code)", source="compiled")
    kernel = result("a kernel", CUB, "registers", 64.0, "sm_90")
    figure = plot.draw("bytes_launches", [*rows, compiled, kernel])
    (title,) = [text.get_text() for text in figure.findobj(Text) if text.get_fontsize() == 11.5]
    assert title.endswith(", counted and read off compiled code")
    assert f"{PROCESSOR}; H100 (code), for torch.compile · {VERSIONS}" in texts_of(figure)
    (panel,) = [axis for axis in axes_of(figure)[6:] if axis.get_title(loc="left") == "plain, compiled"]
    assert bars_in(panel)[CUB_NAME] == [7]
    (panel, _) = [axis for axis in axes_of(figure) if axis.get_title(loc="left") == "somebody:loss"]
    assert to_hex(panel.patches[-1].get_facecolor()) == "#56b4e9"


def test_other_data_sets_are_shown_where_there_is_nothing_else():
    (axis,) = axes_of(plot.draw("memory", [result("plain", CARS, "peak", 3.0 * CARS.nbytes)]))
    assert bars_in(axis) == {CARS_NAME: [pytest.approx(3)]}


def test_two_batch_sizes_are_told_apart(rows):
    more = result("plain", replace(CUB, batch=64), "wall", 7.0)
    found = dots_in(axes_of(plot.draw("time", [*rows, more]))[-2], "plain")
    assert found[f"{CUB_NAME}, B = 64"] == [7]
    assert found[f"{CUB_NAME}, B = 16"] == [value_of(rows, "plain", CUB, "wall", PROCESSOR)]


def test_the_kernels_are_ours_where_they_run():
    figure = plot.draw(
        "growth", [result("ours, Triton", case, "operator", size, GPU) for size, case in SAMPLES.items()]
    )
    (axis,) = axes_of(figure)
    (ideal,) = [line for line in axis.lines if line.get_label() == "in proportion to the size"]
    assert list(ideal.get_ydata()) == [1, 64]
    against = plot.draw("speedup", [result("ours, Triton", CUB, "wall", 1.0), result("plain", CUB, "ratio", 2.0)])
    assert any(text.endswith("(against ours, Triton)") for text in texts_of(against))


SAMPLES = sweeps()["samples, B"]


# The program


def run(folder, output):
    parser = argparse.ArgumentParser()
    plot.add_arguments(parser)
    plot.main(parser.parse_args(["--results", str(folder), "--output", str(output)]))


def test_files_are_the_same_when_drawn_again(rows, tmp_path, capsys):
    few = [row for row in rows if row.dtype == "float32" and row.provider in ("ours, eager", "plain")]
    write(tmp_path / "results" / "some.csv", few)
    for output in ("first", "second"):
        run(tmp_path / "results", tmp_path / output)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == sorted(f"{name}.{kind}" for name in plot.FIGURES for kind in ("png", "svg"))
    for name in files:
        first = (tmp_path / "first" / name).read_bytes()
        assert first == (tmp_path / "second" / name).read_bytes()
        if name.endswith("svg"):
            texts = " ".join(ElementTree.fromstring(first).itertext())
            assert "Time" in texts or "memory" in texts or "Bytes" in texts or "Bandwidth" in texts  # text is text
        else:
            with Image.open(tmp_path / "first" / name) as image:
                assert image.width == 1350
                assert np.unique(np.asarray(image.convert("L"))).size > 10
    assert "not drawn" not in capsys.readouterr().out


def test_what_cannot_be_drawn_is_said(tmp_path, capsys):
    write(tmp_path / "one.csv", [result("ours, eager", CUB, "peak", 1.0)])
    run(tmp_path, tmp_path / "figures")
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["memory.png", "memory.svg"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(plot.FIGURES)
    assert [line for line in lines if "memory" not in line] == [
        f"{name}: not drawn, there are no results for it" for name in plot.FIGURES if name != "memory"
    ]


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="must be a folder with results"):
        run(tmp_path, tmp_path / "figures")
    assert not (tmp_path / "figures").exists()
