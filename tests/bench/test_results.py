"""The format of the results of `bench`: what is written can be read again, and nothing else is taken for results."""

from __future__ import annotations

import csv
import math
import re
import statistics
from pathlib import Path

import pandas as pd
import pytest

from bench import results
from bench.results import frame, result

FEATURES = {"samples": 2, "channels": 8, "groups": "2x4", "side": 3, "dtype": "float32", "layout": "contiguous"}
FACTS = {**FEATURES, "provider": "ours", "backend": "eager", "mode": "both", "device": "A machine", "threads": 2}


def one(**changed: object) -> dict[str, object]:
    """A row, some of its columns changed."""
    return result("wall", [1.0, 1.25, 1.5], "measured", **FACTS) | changed


def test_a_row_has_a_column_per_fact(tmp_path: Path) -> None:
    results.write(tmp_path / "new" / "a.csv", frame([one()]))
    with open(tmp_path / "new" / "a.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert list(row) == list(results.COLUMNS)
    assert {name: row[name] for name in FACTS} == {name: str(fact) for name, fact in FACTS.items()}
    assert (row["data_set"], row["compiled"], row["busy"]) == ("", "False", "0")
    assert (row["value"], row["unit"], row["repeats"], row["known"]) == ("1.25", "ms", "3", "measured")
    assert all(row[name] for name in ("python", "torch", "commit", "date"))


def test_several_numbers_are_their_median_and_quartiles() -> None:
    numbers = [5.0, 1.0, 400.0, 2.0, 8.0]
    row = result("wall", numbers, "measured")
    assert (row["value"], row["repeats"]) == (statistics.median(numbers), 5)
    assert (row["low"], row["high"]) == (2.0, 8.0)  # the second and the fourth of five
    assert [result("peak", 7, "measured")[name] for name in ("low", "value", "high", "repeats")] == [7, 7, 7, 1]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    odd = one(provider='say "ξ", twice', value=2**40 + 1, high=math.inf, compiled=True, metric="peak", unit="bytes")
    table = frame([one(), odd])
    results.write(tmp_path / "a.csv", table)
    results.write(tmp_path / "b.csv", frame([one(mode="forward")]))
    pd.testing.assert_frame_equal(results.read(tmp_path / "a.csv"), table)
    assert list(results.read_folder(tmp_path)["mode"]) == ["both", "both", "forward"]


def test_newer_results_replace_all_older_ones_for_the_same_features_and_device(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    other = {"dtype": "bfloat16", "layout": "channels_last", "device": "B", "threads": 1, "busy": 2, "groups": "4x2"}
    others = [one(**{name: value}) for name, value in other.items()]
    results.update(path, frame([one(metric="wrong"), one(mode="forward"), one(provider="other"), *others]))
    newer = one(value=1.3, commit="later")
    results.update(path, frame([newer]))
    pd.testing.assert_frame_equal(results.read(path), frame([*others, newer]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "walls"}, "metric must be one of .*; got walls"),
        ({"known": "guessed"}, "known must be one of measured, counted, modelled; got guessed"),
        ({"low": 1.3}, "low ≤ value ≤ high must hold; got 1.3, 1.25, 1.375"),
        ({"value": math.nan}, "low ≤ value ≤ high must hold"),
        ({"colour": "red"}, "results must have the columns .*; got .*colour"),
    ],
)
def test_a_row_that_means_nothing_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frame([one(**change)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "provider,value\nours,1\n", "must have the columns data_set,"),
        (lambda text: "", "No columns"),
        (lambda text: text.replace(",1.25,", ",fast,"), "could not convert string to float"),
        (lambda text: text.replace(",False,", ",perhaps,"), "bool"),
        (lambda text: text.replace(",wall,", ",walls,"), "metric must be one of"),
    ],
)
def test_a_file_of_something_else_is_refused_by_its_name(change, message: str, tmp_path: Path) -> None:
    results.write(tmp_path / "a.csv", frame([one()]))
    (tmp_path / "a.csv").write_text(change((tmp_path / "a.csv").read_text()))
    with pytest.raises(SystemExit, match=rf"a\.csv: .*(?i:{message})"):
        results.read_folder(tmp_path)


def test_a_folder_without_results_says_what_writes_them(tmp_path: Path) -> None:
    message = r"must be a folder with results as CSV files; it has none.*bench run --output"
    with pytest.raises(SystemExit, match=message):
        results.read_folder(tmp_path)


def test_rows_are_chosen_by_their_facts() -> None:
    table = frame([one(), one(mode="forward"), one(mode="forward", threads=1), one(mode="backward")])
    assert list(results.where(table, mode=["forward", "backward"], threads=2).index) == [1, 3]


def test_the_results_in_the_repository_can_be_read() -> None:
    table = results.read_folder(results.FOLDER)
    assert set(table.known) == set(results.KNOWN)
    assert all(re.fullmatch("[0-9a-f]{10}", commit) for commit in table.commit), "measured with uncommitted changes"
    assert set(table.provider) >= {"ours", "official", "plain"}
