"""The tables of the pages are those of the results in the repository, and say what these say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import __main__ as bench
from bench import results
from bench.cases import real_cases
from bench.report import pages, tables
from bench.results import frame, result

ROOT = Path(__file__).parents[2]
CASE = replace(real_cases(4)["CUB, ResNet50, 448 pixels"], dtype=torch.bfloat16, layout="channels_last")
FLOAT32 = replace(CASE, dtype=torch.float32, layout="contiguous")
F = 4 * 2048 * 196 * 2  # bytes of the features
OF_CASE = "| ResNet50, 448 px | 4×2048×14×14 (152×10 + 48×11) | bfloat16, channels_last |"
EAGER = {"provider": "ours", "backend": "eager"}
TRITON = {"provider": "ours", "backend": "triton"}
PLAIN, OFFICIAL = {"provider": "plain"}, {"provider": "official"}
CPU = {"device": "Some CPU", "threads": 2}
RUN = {"python": "3", "torch": "9", "triton": "7", "commit": "abc", "date": "2026-01-02"}


def row(metric: str, value: float, case=CASE, known: str = "measured", **facts: object) -> dict[str, object]:
    facts = {"mode": "both", **(CPU if known == "measured" else {}), **RUN, **case.facts, **facts}
    return result(metric, value, known, **facts) | {"low": value / 2, "high": 2 * value}


MEASURED = [
    row("wall", 12.345, **EAGER),
    row("wall", 99.0, **OFFICIAL),
    row("ratio", 4.0, **OFFICIAL),
    row("wall", 1.0, provider="copy"),
    row("ratio", 5.0, **OFFICIAL, mode="forward"),
    row("ratio", 77.0, **OFFICIAL, busy=2),
    row("ratio", 88.0, replace(CASE, network="", data_set=""), **OFFICIAL),  # of no real network
]


@pytest.mark.parametrize("path", pages.PAGES, ids=lambda path: path.name)
def test_the_tables_in_the_repository_are_those_of_its_results(path: Path) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert tables.fill(text, results.read_folder(results.FOLDER)) == text, "python -m bench report"


def test_the_table_of_speed_has_each_device_a_gpu_first_and_a_dash_for_what_was_not_measured() -> None:
    more = [row("wall", 1.0, FLOAT32, **EAGER), row("ratio", 3.0, FLOAT32, **PLAIN)]
    on_gpu = [row("wall", 2.0, **TRITON, device="GPU", threads=0), row("wall", 3.0, **EAGER, device="GPU", threads=0)]
    versions = "(Python 3, torch 9, triton 7; commit abc; 2026-01-02.)"
    assert tables.speed(frame([*MEASURED, *more, *on_gpu])) == [
        f"**GPU** {versions}",
        "",
        "|  | features |  | ours, triton |",
        "| --- | --- | --- | --- |",
        f"{OF_CASE} 2 ms |",
        "",
        f"**Some CPU, 2 threads** {versions}",
        "",
        "|  | features |  | ours, eager | plain | official |",
        "| --- | --- | --- | --- | --- | --- |",
        OF_CASE.replace("bfloat16, channels_last", "float32, contiguous") + " 1 ms | 3.00× (1.50–6.00) | – |",
        f"{OF_CASE} 12.3 ms | – | 4.00× (2.00–8.00) |",
    ]


def test_the_table_of_busy_cores_has_only_what_was_measured_on_them() -> None:
    assert tables.busy(frame([*MEASURED, row("wall", 40.0, **EAGER, busy=2)])) == [
        "**Some CPU, 2 threads** (Python 3, torch 9, triton 7; commit abc; 2026-01-02.)",
        "",
        "|  | features |  | ours, eager | official |",
        "| --- | --- | --- | --- | --- |",
        f"{OF_CASE} 40 ms | 77.00× (38.50–154.00) |",
    ]


def test_the_ranges_are_over_all_real_shapes() -> None:
    others = [
        replace(real_cases(4)[f"{name}, ResNet50, 448 pixels"], dtype=torch.bfloat16, layout="channels_last")
        for name in ("Cars", "Flowers")
    ]
    more = [row("ratio", value, case, **OFFICIAL) for value, case in zip((0.5, 6.0), others, strict=True)]
    more += [row("ratio", 1.25, FLOAT32, **PLAIN), row("ratio", 99.0, **OFFICIAL, threads=1)]
    assert tables.ranges(frame([*MEASURED, *more])) == [
        "**Some CPU, 2 threads**:",
        "",
        "|  | official | plain |",
        "| --- | --- | --- |",
        "| bfloat16 channels_last | 0.50× to 6.00×, faster than ours in 1 of 3 | – |",
        "| float32 contiguous | – | 1.25× to 1.25×, faster than ours in 0 of 1 |",
    ]


def test_the_table_of_accuracy_leaves_out_what_is_wrong_or_compiled() -> None:
    errors = [row("error", 0.00123, **EAGER), row("error", 0.0456, **OFFICIAL), row("wrong", 1.0, **PLAIN)]
    errors += [row("error", 0.1, **PLAIN, compiled=True)]
    assert tables.accuracy(frame(errors)) == [
        "|  | features |  | ours, eager | official |",
        "| --- | --- | --- | --- | --- |",
        f"{OF_CASE} 1.2e-03 | 4.6e-02 |",
    ]


def test_the_table_of_counts() -> None:
    counts = [(TRITON, 12, 3.05), ({**PLAIN, "compiled": True}, 10, 13.0)]
    rows = [
        row(metric, value * times, known="counted", mode=mode, **provider)
        for mode, times in (("both", 1), ("forward", 5))
        for provider, launches, moved in counts
        for metric, value in (("launches", launches), ("traffic", moved * F))
    ]
    assert tables.counted(frame(rows)) == [
        "|  | features |  | ours, triton | plain, compiled |",
        "| --- | --- | --- | --- | --- |",
        f"{OF_CASE} 12, 3.05 | 10, 13.00 |",
    ]


def test_the_modelled_times_are_beside_those_of_bytes_and_instructions() -> None:
    times = {"modelled time": 50.0, "memory time": 10.0, "issue time": 20.0}
    rows = [row(metric, value, known="modelled", device="H200", **TRITON) for metric, value in times.items()]
    rows += [row(metric, 7.0, known="modelled", device="H200", **PLAIN) for metric in list(times)[:2]]
    assert tables.modelled(frame(rows))[-1] == f"{OF_CASE} 50.0: 10.0, 20.0 | 7.0: 7.0, – |"


def test_what_was_compiled_is_from_the_least_to_the_most() -> None:
    rows = [
        row(metric, value, case, "counted", kernel="masks.mask", device=target, **TRITON)
        for case, registers in ((FLOAT32, 40), (CASE, 64))
        for target, facts in {"sm_90": (registers, 0, 0), "gfx942": (30, 0, 2)}.items()
        for metric, value in zip(("registers", "stack", "spills"), facts, strict=True)
    ]
    assert tables.compiled(frame(rows)) == [
        "| kernel | sm_90 | gfx942 |",
        "| --- | --- | --- |",
        "| masks.mask | 40–64, 0, 0 | 30, 0, 2 |",
    ]


def test_a_training_step_is_shown_in_each_way_with_the_share_of_the_loss() -> None:
    gpu = {"device": "Some GPU", "threads": 0, "mode": "training step"}
    rows = [
        row(metric, value, provider=provider, compiled=compiled, **gpu)
        for metric, compiled, values in (
            ("wall", False, (80, 100)),
            ("kernel", False, (60, 61.5)),
            ("wall", True, (50, 80)),
        )
        for provider, value in zip(("no MC-Loss", "ours"), values, strict=True)
    ]
    rows += [row("peak", 1e9, provider="ours", **gpu), row("wall", 5.0, **EAGER)]
    assert tables.training_step(frame(rows)) == [
        "**Some GPU**, ResNet50, 4 images of 448 px, bfloat16, channels_last "
        "(Python 3, torch 9, triton 7; commit abc; 2026-01-02.)",
        "",
        "|  | no MC-Loss | ours |",
        "| --- | --- | --- |",
        "| eager | 80 ms | 100 ms (20.0%) |",
        "| CUDA graph | 60 ms | 61.5 ms (2.4%) |",
        "| torch.compile | 50 ms | 80 ms (37.5%) |",
    ]
    assert tables.training_step(frame(MEASURED)) == ["Not measured yet."]


def test_a_page_keeps_everything_but_its_tables() -> None:
    text = "before\n<!-- table: ranges -->\nold\n<!-- end -->\nbetween\n<!-- table: speed -->\n<!-- end -->\nafter\n"
    filled = tables.fill(text, frame(MEASURED))
    assert filled.startswith("before\n<!-- table: ranges -->\n**Some CPU")
    assert "\n<!-- end -->\nbetween\n<!-- table: speed -->\n**Some" in filled
    assert "old" not in filled
    assert filled.endswith("<!-- end -->\nafter\n")
    assert tables.fill(filled, frame(MEASURED)) == filled


def test_a_table_that_there_is_not_is_an_error() -> None:
    with pytest.raises(KeyError, match="sped"):
        tables.fill("<!-- table: sped -->\n<!-- end -->", frame(MEASURED))


def test_a_folder_without_results_leaves_the_pages_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("README.md").write_text("<!-- table: speed -->\nold\n<!-- end -->\n")
    with pytest.raises(SystemExit, match="must be a folder with results"):
        bench.main(["report", "--results", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert "old" in Path("README.md").read_text()
