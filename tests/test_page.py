"""The tables of the pages are those of the results in the repository, and say what these say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench import page, results
from bench.results import Result

RESULTS = results.read_all(page.ROOT / "bench" / "results")


@pytest.mark.parametrize("path", page.PAGES, ids=lambda path: path.name)
def test_the_tables_in_the_repository_are_those_of_its_results(path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "<!-- table: " in text
    assert page.fill(text, RESULTS) == text, "python -m bench page"


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
    assert page.speed(ROWS) == [
        "**Some CPU, 2 threads** (torch 9; commit abc):",
        "",
        "| features | | ours, eager, ms | official |",
        "|---|---|---|---|",
        "| CUB, ResNet50, 448 pixels | 4×2048×14×14 (152×10 + 48×11) bfloat16 channels_last "
        "| 12.3 | 4.00× (2.00–8.00) |",
    ]


def test_every_device_has_a_table_and_what_was_not_measured_a_dash() -> None:
    elsewhere = [replace(one, device="A GPU", provider=one.provider.replace("official", "plain")) for one in ROWS[:3]]
    more = row("plain", "ratio", 3.0, dtype="float32"), row("ours, eager", "wall", 1.0, dtype="float32")
    lines = page.speed([*ROWS, *more, *elsewhere])
    assert [line for line in lines if line.startswith("**")] == [
        "**Some CPU, 2 threads** (torch 9; commit abc):",
        "**A GPU** (torch 9; commit abc):",
    ]
    assert [line.split(" | ")[2:] for line in lines if "2048" in line] == [
        ["12.3", "4.00× (2.00–8.00)", "– |"],
        ["1", "–", "3.00× (1.50–6.00) |"],
        ["12.3", "4.00× (2.00–8.00) |"],
    ]


def test_the_table_of_memory_is_in_units_of_the_features() -> None:
    assert page.memory(ROWS)[-1].endswith("channels_last | 1.25 | 3.50 |")


def test_a_page_keeps_everything_but_its_tables() -> None:
    text = "before\n<!-- table: memory -->\nold\n<!-- end -->\nbetween\n<!-- table: speed -->\n<!-- end -->\nafter\n"
    filled = page.fill(text, ROWS)
    assert filled.startswith("before\n<!-- table: memory -->\n**Some CPU, 2 threads**")
    assert "\n<!-- end -->\nbetween\n<!-- table: speed -->\n**Some" in filled
    assert "old" not in filled
    assert filled.endswith("<!-- end -->\nafter\n")
    assert page.fill(filled, ROWS) == filled


def test_a_table_that_there_is_not_is_an_error() -> None:
    with pytest.raises(KeyError, match="sped"):
        page.fill("<!-- table: sped -->\n<!-- end -->", ROWS)
