"""The tables of the pages are those of the results in the repository, and say what these say."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

from bench import results
from bench.report import tables
from bench.results import Result

ROOT = Path(__file__).parents[2]
RESULTS = results.read_folder(results.FOLDER)


@pytest.mark.parametrize("path", tables.PAGES, ids=lambda path: path.name)
def test_the_tables_in_the_repository_are_those_of_its_results(path) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert "<!-- table: " in text
    assert tables.fill(text, RESULTS) == text, "python -m bench page"


def row(provider: str, metric: str, value: float, **others: object) -> Result:
    return Result(
        provider,
        **{
            "shape": "4x2048x14x14 (152x10 + 48x11)",
            "dtype": "bfloat16",
            "layout": "channels_last",
            "mode": "both",
            "metric": metric,
            "value": value,
            "low": value / 2,
            "high": value * 2,
            "samples": 7,
            "source": "measured",
            "device": "Some CPU, 2 threads",
            "versions": "torch 9",
            "commit": "abc",
            "date": "2026-01-02",
            **others,
        },  # type: ignore[arg-type]
    )


ROWS = [
    row("ours, eager", "wall", 12.345),
    row("official", "wall", 99.0),
    row("official", "ratio", 4.0),
    row("Holocron", "wrong", 1.0),
    row("copy", "wall", 1.0, mode="copy"),
    row("ours, eager", "peak", 4 * 2048 * 196 * 2 * 1.25),
    row("official", "peak", 4 * 2048 * 196 * 2 * 3.5),
    row("official", "ratio", 7.0, shape="4x5x7x7 (5x1)"),  # has no name
    row("official", "ratio", 5.0, mode="forward"),
]


def test_the_table_of_speed() -> None:
    assert tables.speed(ROWS) == [
        "**Some CPU, 2 threads** (torch 9; commit abc):",
        "",
        "| features | | ours, eager, ms of wall time | official |",
        "|---|---|---|---|",
        "| CUB, ResNet50, 448 pixels | 4×2048×14×14 (152×10 + 48×11) bfloat16 channels_last "
        "| 12.3 | 4.00× (2.00–8.00) |",
    ]


def test_every_device_has_a_table_and_what_was_not_measured_a_dash() -> None:
    elsewhere = [replace(one, device="A GPU", provider=one.provider.replace("official", "plain")) for one in ROWS[:3]]
    more = row("plain", "ratio", 3.0, dtype="float32"), row("ours, eager", "wall", 1.0, dtype="float32")
    lines = tables.speed([*ROWS, *more, *elsewhere])
    assert [line for line in lines if line.startswith("**")] == [
        "**Some CPU, 2 threads** (torch 9; commit abc):",
        "**A GPU** (torch 9; commit abc):",
    ]
    assert [line.split(" | ")[2:] for line in lines if "2048" in line] == [
        ["12.3", "4.00× (2.00–8.00)", "– |"],
        ["1", "–", "3.00× (1.50–6.00) |"],
        ["12.3", "4.00× (2.00–8.00) |"],
    ]


def test_the_ranges_are_over_all_real_shapes() -> None:
    shapes = ["4x2048x14x14 (52x20 + 48x21)", "4x2048x14x14 (94x20 + 8x21)"]
    more = [row("official", "ratio", value, shape=shape) for value, shape in zip((0.5, 6.0), shapes, strict=True)]
    contiguous = row("plain", "ratio", 1.25, dtype="float32", layout="contiguous")
    less_known = row("official", "ratio", 99.0, device="Some CPU, 1 thread")
    assert tables.ranges([*ROWS, *more, contiguous, less_known]) == [
        "**Some CPU, 2 threads**:",
        "",
        "| | float32 contiguous | bfloat16 channels_last |",
        "|---|---|---|",
        "| official | – | 0.50× to 6.00×, faster than ours in 1 of 3 |",
        "| plain | 1.25× to 1.25×, faster than ours in 0 of 1 | – |",
    ]


def test_the_table_of_memory_is_in_units_of_the_features() -> None:
    assert tables.memory(ROWS)[-1].endswith("channels_last | 1.25 | 3.50 |")


def test_the_table_of_accuracy() -> None:
    more = [row("ours, eager", "error", 0.00123), row("official", "error", 0.0456), row("plain", "wrong", 1.0)]
    elsewhere = [replace(one, device="Z, 1 thread", provider="plain, compiled") for one in more]
    assert tables.accuracy([*ROWS, *more, *elsewhere]) == [
        "| features | | ours, eager | official |",
        "|---|---|---|---|",
        "| CUB, ResNet50, 448 pixels | 4×2048×14×14 (152×10 + 48×11) bfloat16 channels_last | 1.2e-03 | 4.6e-02 |",
    ]


F = 4 * 2048 * 196 * 2  # bytes of the features


def counted_rows() -> list[Result]:
    rows = []
    for number, name in enumerate(("ours, Triton", "official", "plain", "plain, compiled")):
        rows += [row(name, "launches", 12.0 + number, device="any GPU", source="counted", versions="torch 1")]
        rows += [row(name, "traffic", (3.5 + number) * F, device="an H100", source="compiled", commit="def")]
    return rows


def test_the_headline_has_times_of_the_busiest_device_and_what_was_counted() -> None:
    names = ("official", "plain", "plain, compiled")
    rows = [row("ours, eager", "wall", 12.345), row("ours, eager", "peak", 1.25 * F)]
    rows += [row(name, "ratio", 2.0 + number) for number, name in enumerate(names)]
    rows += [row(name, "peak", (3.0 + number) * F) for number, name in enumerate(names)]
    rows += [
        row("official", "ratio", 9.0, device="Some CPU, 1 thread"),
        row("ours, eager", "wall", 99.0, mode="forward"),
    ]
    rows += [row("official", "ratio", 9.0, shape="4x512x14x14 (88x2 + 112x3)")]  # not among the few that are shown
    shape = "4×2048×14×14 (152×10 + 48×11) bfloat16 channels_last"
    assert tables.headline([*rows, *counted_rows()]) == [
        "Time and memory measured on Some CPU, 2 threads (torch 9; commit abc; ours is *ours, eager*); reads, writes "
        "and launches counted, without a GPU:",
        "",
        "| a step, forward + backward | | ours | official | plain | plain, compiled | by `python -m bench` |",
        "|---|---|---|---|---|---|---|",
        f"| time, memory | {shape} | 12.3 ms, 1.25 F | 2.00×, 3.00 F | 3.00×, 4.00 F | 4.00×, 5.00 F "
        "| `run --full --compiled` |",
        f"| reads and writes on a GPU, counted | {shape} | 3.50 F | 4.50 F | 5.50 F | 6.50 F | `static` |",
        f"| launches on a GPU, counted | {shape} | 12 | 13 | 14 | 15 | `static` |",
    ]


def test_on_a_gpu_the_headline_has_the_kernels_and_a_dash_for_what_was_not_measured() -> None:
    rows = [row("ours, eager", "wall", 99.0), row("ours, Triton", "wall", 1.5), row("ours, Triton", "peak", 1.25 * F)]
    rows += [row("ours, eager", "ratio", 66.0), row("official", "ratio", 9.0), row("plain", "ratio", 8.0)]
    lines = tables.headline([*rows, *counted_rows()])
    assert "ours is *ours, Triton*" in lines[0]
    assert lines[4].endswith("| 1.5 ms, 1.25 F | 9.00×, – | 8.00×, – | –, – | `run --full --compiled` |")


def static(provider: str, metric: str, value: float, device: str, **others: object) -> Result:
    return row(provider, metric, value, **{"low": value, "high": value, "device": device, **others})  # type: ignore[arg-type]


def test_the_table_of_counts() -> None:
    counts = {"ours, Triton": (12, 3.05), "plain, compiled": (10, 13.0)}
    rows = [
        static(name, metric, value, "any GPU (counted)", source="counted", mode=mode)
        for mode, times in (("both", 1), ("forward", 5))
        for name, (launches, moved) in counts.items()
        for metric, value in (("launches", launches * times), ("traffic", moved * F * times))
    ]
    elsewhere = [replace(one, shape="4x2048x14x14 (52x20 + 48x21)") for one in rows]  # Aircraft
    assert tables.counted([*rows, *elsewhere]) == [
        "| features | | ours, Triton | plain, compiled |",
        "|---|---|---|---|",
        "| CUB, ResNet50, 448 pixels | 4×2048×14×14 (152×10 + 48×11) bfloat16 channels_last | 12, 3.05 | 10, 13.00 |",
    ]


def test_the_table_of_rooflines_is_in_microseconds() -> None:
    providers = {
        "ours, Triton": 0.05,
        "plain": 0.18,
        "official": 0.2,
        "plain, compiled": 0.09,
        "official, compiled": 0.1,
        "ours, Triton, compiled": 0.04,
    }
    rows = [
        static(name, "roofline", value * factor, device, source="modelled")
        for device, factor in (("A100 (model)", 2), ("H100 (model)", 1))
        for name, value in providers.items()
    ]
    lines = tables.roofline(rows)
    assert lines[0] == "µs of ours, Triton, compiled; ours, Triton; plain, compiled; plain; official:"
    assert lines[2] == "| features | | A100 (model) | H100 (model) |"
    assert lines[4].endswith(" | 80; 100; 180; 360; 400 | 40; 50; 90; 180; 200 |")


def test_the_table_of_what_was_compiled_is_from_the_least_to_the_most() -> None:
    rows = [
        static("ours, Triton: masks.mask", metric, value, device, source="compiled", layout=layout)
        for layout, registers in (("contiguous", 40), ("channels_last", 64))
        for device, facts in {
            "sm_90 (compiled, not run)": {"registers": registers, "stack": 0, "occupancy": 20 / registers},
            "gfx942 (compiled, not run)": {"registers": 30, "stack": 0, "spills": 0},
        }.items()
        for metric, value in facts.items()
    ]
    assert tables.compiled(rows) == [
        "| kernel | sm_90 | gfx942 |",
        "|---|---|---|",
        "| masks.mask | 40–64 registers, 0 bytes of stack, occupancy 31–50 % "
        "| 30 registers, 0 bytes of stack, 0 spills |",
    ]


def test_a_page_keeps_everything_but_its_tables() -> None:
    text = "before\n<!-- table: memory -->\nold\n<!-- end -->\nbetween\n<!-- table: speed -->\n<!-- end -->\nafter\n"
    filled = tables.fill(text, ROWS)
    assert filled.startswith("before\n<!-- table: memory -->\n**Some CPU, 2 threads**")
    assert "\n<!-- end -->\nbetween\n<!-- table: speed -->\n**Some" in filled
    assert "old" not in filled
    assert filled.endswith("<!-- end -->\nafter\n")
    assert tables.fill(filled, ROWS) == filled


def test_a_folder_without_results_leaves_the_pages_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (path,) = [path for path in tables.PAGES if path.name == "README.md"]
    path.write_text("<!-- table: speed -->\nold\n<!-- end -->\n")
    with pytest.raises(SystemExit, match="must be a folder with results"):
        tables.main(Namespace(results=tmp_path))
    assert "old" in path.read_text()


def test_a_table_that_there_is_not_is_an_error() -> None:
    with pytest.raises(KeyError, match="sped"):
        tables.fill("<!-- table: sped -->\n<!-- end -->", ROWS)
