"""The format of the results of `bench`: what is written can be read again, and nothing else is taken for results."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest

from bench import results
from bench.results import Result

HEADER = "provider,shape,dtype,layout,mode,metric,value,low,high,samples,source,device,versions,commit,date"
ROW = Result(
    provider="ours, eager",
    shape="2x8x3x3 (2x4)",
    dtype="float32",
    layout="contiguous",
    mode="both",
    metric="wall",
    value=1.25,
    low=1.0,
    high=1.5,
    samples=7,
    source="measured",
    device="A machine, 2 threads",
    versions="Python 3, torch 2",
    commit="0123456789",
    date="2026-01-02",
)


def test_a_row_has_the_documented_columns(tmp_path: Path) -> None:
    results.write(tmp_path / "new" / "a.csv", [ROW])
    with open(tmp_path / "new" / "a.csv", newline="") as file:
        header, row = csv.reader(file)
    assert ",".join(header) == HEADER
    assert row[:7] == ["ours, eager", "2x8x3x3 (2x4)", "float32", "contiguous", "both", "wall", "1.25"]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    infinite = replace(ROW, metric="wrong", value=math.inf, low=math.inf, high=math.inf)
    rows = [
        ROW,
        infinite,
        replace(ROW, provider='say "ξ"', metric="peak", value=123456789, low=123456788, high=2**40, samples=1),
    ]
    results.write(tmp_path / "a.csv", rows)
    results.write(tmp_path / "b.csv", [replace(ROW, mode="forward")])
    assert results.read(tmp_path / "a.csv") == rows
    assert results.read_folder(tmp_path) == [*rows, replace(ROW, mode="forward")]


def test_newer_results_replace_all_older_ones_for_the_same_features(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    older = [replace(ROW, metric="wrong"), replace(ROW, mode="forward"), replace(ROW, provider="other")]
    others = [replace(ROW, **{name: "other"}) for name in ("shape", "dtype", "layout", "device")]
    results.update(path, [*older, *others])
    newer = replace(ROW, value=1.5, high=2.0, commit="later")
    results.update(path, [newer])
    assert results.read(path) == [*others, newer]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "walls"}, "metric must be one of .*; got 'walls'"),
        ({"source": "guessed"}, "source must be one of .*; got 'guessed'"),
        ({"low": 1.3}, "low ≤ value ≤ high must hold; got 1.3, 1.25, 1.5"),
        ({"value": math.nan}, "low ≤ value ≤ high must hold"),
    ],
)
def test_a_row_that_means_nothing_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(ROW, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("provider,value\nours,1\n", "must begin with the columns provider,shape,"),
        ("", "must begin with the columns"),
        (HEADER + "\nours,1\n", "line 2"),
        (HEADER + "\n" + ",".join("a" * 15) + "\n", "line 2: could not convert"),
    ],
)
def test_a_file_that_is_none_of_results_says_where(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        results.read(tmp_path / "a.csv")
    assert "a.csv" in str(error.value)


def test_a_folder_without_results_says_what_writes_them(tmp_path: Path) -> None:
    with pytest.raises(
        SystemExit, match=r"must be a folder with results as CSV files; it has none.*bench run --output"
    ):
        results.read_folder(tmp_path)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SystemExit, match=r"other\.csv must begin with the columns"):
        results.read_folder(tmp_path)


def test_the_results_in_the_repository_can_be_read() -> None:
    rows = results.read_folder(results.FOLDER)
    assert {row.source for row in rows} == set(results.SOURCES)
    assert all("+" not in row.commit and row.commit != "unknown" for row in rows), "measured with uncommitted changes"
