"""The ablation: what its variants train, its statistics, its files, and that nothing is trained twice."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel
from small_run import IMAGE_SHAPE, OPTIONS, SETTINGS, small_data, small_network, write_images
from torch.nn.functional import cross_entropy

from reference.__main__ import main
from reference.commands import Search
from reference.experiments import demo, experiment, figure, parallel_runs, search
from reference.experiments.ablation import ablation_plan
from reference.experiments.plan import run_name
from reference.experiments.results import Results, read, write
from reference.experiments.table import table
from reference.figures.theme import LIGHT
from reference.formulas import paper as oracle
from reference.training.build import build_network, load_data
from reference.training.checkpoint import load
from reference.training.settings import Settings
from reference.training.trainer import DivergedError, Run, draw_mask, train

ROOT = Path(__file__).parents[2]
BASE = replace(SETTINGS, epochs=1, channels_per_class=4, weights=(0.5, 3))
PLAN = ablation_plan(BASE, (3, 8, 5, 1), channels=(2, 6), drops=(1, 0.75))

COMPONENTS = {  # α, β and how many of the 4 channels of each class are masked
    "cross-entropy": (0, 0, 0),
    "+ L_dis": (0.5, 0, 2),
    "+ L_div": (0, 3, 0),
    "+ L_dis + L_div": (0.5, 3, 2),
    "+ L_dis + L_div, no masks": (0.5, 3, 0),
}
OTHERS = {
    "drop 1": (0.5, 3, 1),
    "drop 0.75": (0.5, 3, 3),
    "ξ = 2, cross-entropy": (0, 0, 0),
    "ξ = 2, + L_dis + L_div": (0.5, 3, 1),
    "ξ = 6, cross-entropy": (0, 0, 0),
    "ξ = 6, + L_dis + L_div": (0.5, 3, 3),
    "label smoothing": (0, 0, 0),
    "auxiliary classifier": (0, 0, 0),
    "2 epochs, cross-entropy": (0, 0, 0),
    "2 epochs, + L_dis + L_div": (0.5, 3, 2),
    "2 epochs, auxiliary classifier": (0, 0, 0),
    "mean pooling, cross-entropy": (0, 0, 0),
    "mean pooling, + L_dis + L_div": (0.5, 3, 2),
}
VARIANTS = {variant.name: variant for variants in PLAN.sections.values() for variant in variants}
BASELINES = {name for name in VARIANTS if name.endswith("cross-entropy")}


# What is trained


def test_the_lines_of_the_table():
    assert list(VARIANTS) == [*COMPONENTS, *OTHERS]
    assert [len(variants) for variants in PLAN.sections.values()] == [5, 2, 4, 2, 3, 2]
    assert [len(variants) for variants in ablation_plan(BASE, (0,)).sections.values()] == [5, 2, 3, 2]
    other_backbone = replace(BASE, backbone="resnet18", channels_per_class=3)
    assert [len(variants) for variants in ablation_plan(other_backbone, (0,)).sections.values()] == [5, 2, 3]


@pytest.mark.parametrize(("name", "expected"), (COMPONENTS | OTHERS).items())
def test_the_objective_of_a_variant_is_what_its_name_says(name, expected):
    alpha, beta, masked = expected
    settings = VARIANTS[name].settings
    network = small_network(settings)
    mask = draw_mask(network, torch.device("cpu"))
    xi = int(name[4]) if name.startswith("ξ") else 4
    zeros = torch.zeros(10) if mask is None else (mask.reshape(10, xi) == 0).sum(dim=1)
    assert zeros.tolist() == [masked] * 10
    images, targets = torch.randn(6, *IMAGE_SHAPE), torch.randint(10, (6,))
    _, loss, output = network(images, targets, mask)
    if output is not None:
        loss = loss + output.loss
    features = network.extract(images)
    pooled = features.mean(dim=(2, 3)) if "mean pooling" in name else features.amax(dim=(2, 3))
    smoothing = 0.1 if name == "label smoothing" else 0
    expected_loss = cross_entropy(network.head(pooled), targets, label_smoothing=smoothing)
    if alpha or beta:
        expected_loss = expected_loss + oracle.official_loss(features, targets, [xi] * 10, mask, alpha, beta)
    if name.endswith("auxiliary classifier"):
        linear = network.loss.linear
        scores = features.flatten(2).mean(dim=2) @ linear.weight.T + linear.bias
        expected_loss = expected_loss + 0.5 * cross_entropy(scores, targets)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-5)
    assert settings.epochs == (2 if name.startswith("2 epochs") else 1)


def test_variants_of_a_seed_start_alike_and_see_the_same_images():
    first = VARIANTS["cross-entropy"].settings
    weights, (train_set, _) = small_network(first).state_dict(), small_data()
    batches = list(next(Run(small_network(first), first, 40, []).steps(train_set)))
    for variant in VARIANTS.values():
        settings, others = variant.settings, small_network(variant.settings).state_dict()
        if settings.channels_per_class == 4:
            assert all(torch.equal(others[name], weights[name]) for name in weights)
        own = small_network(variant.baseline).state_dict()
        assert all(torch.equal(others[name], own[name]) for name in own)
        run = Run(small_network(settings), settings, 40, [])
        for (images, targets), (expected, expected_targets) in zip(next(run.steps(train_set)), batches, strict=True):
            assert torch.equal(images, expected)
            assert torch.equal(targets, expected_targets)


def test_the_baseline_is_the_same_network_by_cross_entropy_alone():
    for name, variant in VARIANTS.items():
        expected = {
            "weights": (0, 0),
            "drop": 0,
            "channels_per_class": int(name[4]) if name.startswith("ξ") else 4,
            "epochs": 2 if name.startswith("2 epochs") else 1,
            "pooling": "mean" if "mean pooling" in name else "max",
        }
        assert variant.baseline == replace(BASE, **expected)
        assert (variant.settings == variant.baseline) == (name in BASELINES)


def test_every_run_is_trained_once_and_has_a_folder_of_its_own():
    settings = PLAN.settings()
    assert len(settings) == len(set(settings)) == 4 * len(VARIANTS)
    assert len({run_name(BASE, each) for each in settings}) == len(settings)
    assert [each.seed for each in settings[: len(VARIANTS)]] == [3] * len(VARIANTS)  # so that what is early is whole
    again = ablation_plan(BASE, (0,), channels=(4,), drops=(0, "half"))
    assert len(again.settings()) == len(ablation_plan(BASE, (0,)).settings())


def test_picks_are_of_their_variant_and_of_its_baseline():
    picks = {
        "cross-entropy": {"learning_rate": 0.25},
        "+ L_dis + L_div": {"weights": [7, 8]},
        "+ L_dis": {"weights": [9, 0]},
        "mean pooling, cross-entropy": {"learning_rate": 0.125},
    }
    plan = ablation_plan(BASE, (0,), channels=(2,), drops=(1,), picks=picks)
    found = {variant.name: variant for variants in plan.sections.values() for variant in variants}
    rates = {name: (variant.settings.learning_rate, variant.baseline.learning_rate) for name, variant in found.items()}
    assert {name for name, (own, _) in rates.items() if own == 0.25} == {
        *("cross-entropy", "ξ = 2, cross-entropy", "2 epochs, cross-entropy"),
    }
    assert {name for name, (_, baseline) in rates.items() if baseline != 0.25} == {
        *("mean pooling, cross-entropy", "mean pooling, + L_dis + L_div"),
    }
    assert rates["mean pooling, cross-entropy"] == (0.125, 0.125)
    assert rates["mean pooling, + L_dis + L_div"] == (BASE.learning_rate, 0.125)
    assert found["+ L_dis"].settings.weights == (9, 0)
    assert found["+ L_div"].settings.weights == (0, 3)
    whole = ("+ L_dis + L_div", "+ L_dis + L_div, no masks", "drop 1", "ξ = 2, + L_dis + L_div")
    assert {found[name].settings.weights for name in whole} == {(7, 8)}


# Picking on other seeds


def test_the_search_picks_the_highest_mean(tmp_path):
    grid = {"a": [{"learning_rate": rate} for rate in (0.5, 0.25, 0.125)], "b": [{"weights": [0, 0], "epochs": 3}]}
    (tmp_path / "grid.json").write_text(json.dumps(grid))
    plan = search.search_plan(BASE, (7, 9), search.read_grid(tmp_path / "grid.json"))
    accuracy = {(0.5, 7): 0.5, (0.5, 9): 0.1, (0.25, 7): 0.4, (0.25, 9): 0.3, (0.125, 7): 0.2, (0.125, 9): 0.2}
    rows = {
        settings: {"test_accuracy": accuracy.get((settings.learning_rate, settings.seed), 0)}
        for settings in plan.settings()
    }
    picked = search.picks(Results(plan, {}, (40, 12), rows))
    assert picked == {"a": {"learning_rate": 0.25}, "b": {"weights": (0, 0), "epochs": 3, "drop": 0}}


def test_the_committed_grid_has_a_line_for_each_of_the_ablation():
    grid = search.read_grid(Search.grid)
    plan = ablation_plan(Settings(), (0,), picks={name: tried[-1] for name, tried in grid.items()})
    names = {variant.name for variants in plan.sections.values() for variant in variants}
    assert set(grid) <= names
    assert len(search.search_plan(Settings(), (0,), grid).settings()) == sum(map(len, grid.values()))


# The statistics


def made_up(plan=PLAN, seed=0) -> Results:
    """Numbers as if every run were finished; those of MC-Loss are a little higher."""
    generator = np.random.default_rng(seed)
    names = ["test_accuracy", "test_discriminality", "test_diversity_fraction", "test_overlap", "seconds"]
    rows = {
        settings: dict(zip(names, (generator.random(5) * 0.04 + 0.02 * any(settings.weights)).tolist(), strict=True))
        for settings in plan.settings()
    }
    environment = {"cpu": "a processor", "cores": 2, "python": "3", "torch": "2", "device": "cpu"}
    return Results(plan, environment, (40, 360), rows)


def cells_of(text: str) -> dict[str, list[str]]:
    """The numbers of each line, by name."""
    found = {}
    for line in text.splitlines():
        name = line.strip().split("   ")[0]
        if line.startswith("  ") and name in VARIANTS:
            found.setdefault(name, re.findall(r"\S+ ± \S+|\d+/\d+", line.strip()[len(name) :]))
    return found


def column(results, settings, measure):
    return np.array([results.rows[replace(settings, seed=seed)][measure] for seed in results.plan.seeds()])


def test_the_statistics_of_the_table():
    results = made_up()
    found = cells_of(table(results))
    assert set(found) == set(VARIANTS)
    stars = set()
    for name, variant in VARIANTS.items():
        accuracy = 100 * column(results, variant.settings, "test_accuracy")
        expected = [f"{np.mean(accuracy):.1f} ± {np.std(accuracy, ddof=1):.1f}"]
        if name not in BASELINES:
            baseline = 100 * column(results, variant.baseline, "test_accuracy")
            difference = accuracy - baseline
            star = "*" if ttest_rel(accuracy, baseline).pvalue < 0.05 else ""
            stars.add(star)
            expected.append(f"{np.mean(difference):+.1f} ± {np.std(difference, ddof=1):.1f}{star}")
            expected.append(f"{(difference > 0).sum()}/{(difference < 0).sum()}")
        for measure, digits in (("discriminality", 2), ("diversity_fraction", 2), ("overlap", 3)):
            values = column(results, variant.settings, f"test_{measure}")
            expected.append(f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}")
        assert found[name] == expected
    assert stars == {"", "*"}, "the numbers above have to hold both"


def test_equal_accuracies_are_neither_more_nor_less():
    results = made_up(ablation_plan(BASE, (0, 1)))
    for settings, row in results.rows.items():
        row["test_accuracy"] = 0.5 if settings.seed == 0 or not any(settings.weights) else 0.25
    found = cells_of(table(results))["+ L_dis"]
    assert found[:3] == ["37.5 ± 17.7", "-12.5 ± 17.7", "0/1"]


def test_differences_without_spread_get_no_star():
    results = made_up(ablation_plan(BASE, (0, 1, 2)))
    for settings, row in results.rows.items():
        row["test_accuracy"] = 0.75 if any(settings.weights) else 0.5
    assert cells_of(table(results))["+ L_dis"][:3] == ["75.0 ± 0.0", "+25.0 ± 0.0", "3/0"]


def test_one_seed_has_neither_spread_nor_stars():
    text = table(made_up(ablation_plan(BASE, (7,), channels=(2, 6), drops=(1, 0.75))))
    assert "±" not in text
    assert "*" not in text


def test_without_overlap_there_is_a_dash():
    results = made_up()
    for row in results.rows.values():
        row["test_overlap"] = math.nan
    assert [line[-1] for line in table(results).splitlines() if "±" in line][:18] == ["–"] * 18


def test_the_figure_shows_every_number():
    results = made_up()
    difference, diversity, overlap = figure.ablation_figure(results, LIGHT).axes
    labels = dict(
        zip(difference.get_yticks(), (label.get_text() for label in difference.get_yticklabels()), strict=True)
    )
    assert [label for label in labels.values() if label in VARIANTS] == list(VARIANTS)

    def drawn(axis, marker):
        lines = [line for line in axis.lines if line.get_marker() == marker and len(set(line.get_ydata())) == 1]
        return {labels[line.get_ydata()[0]]: line.get_xdata() for line in lines if line.get_ydata()[0] in labels}

    for axis, measure in ((diversity, "test_diversity_fraction"), (overlap, "test_overlap")):
        for name, variant in VARIANTS.items():
            values = column(results, variant.settings, measure)
            assert np.allclose(drawn(axis, "o")[name], values)
            assert np.allclose(drawn(axis, "D")[name], values.mean())
    assert set(drawn(difference, "o")) == {name for name in VARIANTS if name not in BASELINES}
    for name in drawn(difference, "o"):
        pair = [
            100 * column(results, each, "test_accuracy") for each in (VARIANTS[name].settings, VARIANTS[name].baseline)
        ]
        assert np.allclose(drawn(difference, "o")[name], pair[0] - pair[1])
        assert np.allclose(drawn(difference, "D")[name], (pair[0] - pair[1]).mean())
        expected = ttest_rel(*pair).confidence_interval(0.95)
        assert np.allclose(drawn(difference, "None")[name], [expected.low, expected.high])


# The files


def test_results_come_back_as_they_were(tmp_path):
    results = made_up()
    lacking = PLAN.settings()[2]
    results.rows[lacking]["test_overlap"] = math.nan
    write(tmp_path / "results.json", results)
    found = read(tmp_path / "results.json")
    assert found.plan == PLAN
    assert (found.images, found.environment) == (results.images, results.environment)
    assert math.isnan(found.rows[lacking].pop("test_overlap"))
    del results.rows[lacking]["test_overlap"]
    assert found.rows == results.rows
    json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)


def test_where_the_data_lie_is_no_part_of_the_results(tmp_path):
    plan = ablation_plan(replace(BASE, data="somewhere"), PLAN.seeds(), channels=(2, 6), drops=(1, 0.75))
    write(tmp_path / "results.json", made_up(plan))
    assert "somewhere" not in (tmp_path / "results.json").read_text()
    assert table(read(tmp_path / "results.json")) == table(made_up(plan))


def test_a_file_that_is_none(tmp_path, capsys):
    assert main(["ablation", "--redraw", str(tmp_path / "none.json")]) == 1
    assert "there are no results" in capsys.readouterr().err
    (tmp_path / "other.json").write_text('{"base": {}}')
    with pytest.raises(ValueError, match=r"other\.json must be the results.json of an experiment"):
        read(tmp_path / "other.json")
    write(tmp_path / "results.json", made_up())
    content = json.loads((tmp_path / "results.json").read_text())
    content["runs"].pop()
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="lacks 1 runs"):
        read(tmp_path / "results.json")


def test_results_of_a_version_that_measured_less(tmp_path, capsys):
    results = made_up()
    for row in results.rows.values():
        del row["test_overlap"]
    write(tmp_path / "results.json", results)
    assert main(["ablation", "--redraw", str(tmp_path / "results.json"), "--figures", str(tmp_path)]) == 1
    assert "must have test_overlap of every run" in capsys.readouterr().err


def test_the_page_has_the_table_of_its_results():
    page = (ROOT / "docs" / "ablations.md").read_text()
    assert f"```text\n{table(read(ROOT / 'docs' / 'ablations.json'))}\n```" in page
    for theme in ("light", "dark"):
        assert (ROOT / "docs" / "figures" / f"ablation-{theme}.svg").is_file()
        assert f"figures/ablation-{theme}.svg" in page


# Runs, several at a time


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> str:
    """The folder of the images that are trained on."""
    return str(write_images(tmp_path_factory.mktemp("images")))


class Messages(list):
    put = list.append


@pytest.fixture
def messages(monkeypatch) -> Messages:
    """Messages of a process that trains to the first one."""
    sent = Messages()
    monkeypatch.setattr(parallel_runs, "_epochs", sent, raising=False)
    return sent


def test_a_run_that_was_stopped_goes_on_and_one_that_is_finished_stays(messages, images, tmp_path):
    settings = replace(BASE, epochs=2, data=images, batch_size=4)
    train_set, test_set = load_data(settings)
    network = build_network(settings, len(train_set.classes))
    calls = []

    def stop(row):
        calls.append(row)
        if len(calls) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(network, train_set, test_set, settings, tmp_path / "a", progress=False, on_epoch=stop)
    rows = parallel_runs._train_one(settings, tmp_path / "a", True, "cpu", 0)
    assert sum(epochs for epochs, _ in messages) == 2
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["seconds"] for row in rows[:1]] == [row["seconds"] for row in calls], "the first one was trained again"
    whole = parallel_runs._train_one(settings, tmp_path / "b", False, "cpu", 0)
    assert [row["train_loss"] for row in rows] == [row["train_loss"] for row in whole]

    messages.clear()
    assert parallel_runs._train_one(settings, tmp_path / "b", True, "cpu", 0) == whole
    assert messages == [(2, whole[-1]["train_loss"])]


def test_a_run_that_diverges_is_named(messages, images, tmp_path):
    settings = replace(BASE, learning_rate=1e30, data=images, batch_size=4)
    with pytest.raises(DivergedError, match=rf"^{re.escape(str(tmp_path))}: the training loss is"):
        parallel_runs._train_one(settings, tmp_path, True, "cpu", 0)


# The command


@pytest.fixture(scope="module")
def options(images) -> list[str]:
    """A small ablation."""
    few = ["--epochs=1", "--pooling=max", "--channels-per-class=4", "--over-drop=0.75", "--over-channels-per-class"]
    return [*OPTIONS, "--data", images, *few, "--processes=1"]


@pytest.fixture(scope="module")
def finished(options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    assert main(["ablation", *options, "--seeds", "3", "8", "--folder", str(folder)]) == 0
    return folder


def runs_in(folder) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/checkpoint.pt")}


def test_results_are_those_of_the_runs(finished, capsys):
    results = read(finished / "results.json")
    assert len(results.rows) == len(runs_in(finished)) == 2 * 13
    for settings, row in results.rows.items():
        state = load(finished / run_name(results.plan.base, settings) / "checkpoint.pt")
        assert replace(state.settings, data="") == settings
        assert len(state.rows) == settings.epochs
        assert row == {**state.rows[-1], "seconds": sum(epoch["seconds"] for epoch in state.rows)}
    assert main(["ablation", "--redraw", str(finished / "results.json"), "--figures", str(finished / "drawn")]) == 0
    assert table(results) in capsys.readouterr().out
    for name in ("ablation-light.svg", "ablation-dark.svg"):
        assert (finished / "drawn" / name).read_bytes() == (finished / name).read_bytes()


def test_nothing_is_trained_twice(options, finished, tmp_path):
    finished = Path(shutil.copytree(finished, tmp_path / "runs"))  # this test adds runs, and all others use them
    before, results = runs_in(finished), (finished / "results.json").read_text()
    assert main(["ablation", *options, "--seeds", "3", "8", "--folder", str(finished)]) == 0
    assert runs_in(finished) == before
    assert (finished / "results.json").read_text() == results
    # Another seed adds runs and leaves those that are there.
    assert main(["ablation", *options, "--seeds", "8", "4", "--over-drop", "--folder", str(finished)]) == 0
    after = runs_in(finished)
    assert {name: after[name] for name in before} == before
    assert {name.rsplit("-", 1)[1] for name in after.keys() - before.keys()} == {"seed4"}
    assert len(after) == len(before) + 12
    assert read(finished / "results.json").plan.seeds() == [8, 4]


def test_runs_of_other_settings_are_not_taken(options, finished, capsys):
    before = runs_in(finished)
    assert main(["ablation", *options, "--seeds", "3", "--momentum", "0.5", "--folder", str(finished)]) == 1
    assert "must have the same settings; they differ: momentum 0.9 and 0.5" in capsys.readouterr().err
    assert runs_in(finished) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--weights 0 3", "both weights must be above 0"),
        ("--convention paper", 'convention must be "official"'),
        ("--drop 0", "drop must not be 0"),
        ("--seeds 1 2 1", "seeds must differ; got 1 2 1"),
        ("--over-drop half half", "values of drop must differ"),
        ("--over-channels-per-class 3 3", "ξ must differ"),
        ("--over-channels-per-class 0", "channels_per_class must be at least 1"),
        ("--over-drop 3", "drop must leave a channel of each class, at most 2 for ξ = 3; got 3"),
        ("--over-drop 0.1", "drop 0.1 masks none of 3 channels"),
        ("--drop 2", "at most 1 for ξ = 2; got 2. A fraction"),
        ("--over-drop 1.5", "drop must be"),
        ("--recipe cub-resnet50 --data DIR --over-channels-per-class 3", "there is no ξ to compare"),
        ("--picks none.json", "No such file or directory: 'none.json'"),
    ],
)
def test_bad_options(arguments, message, tmp_path, capsys):
    assert main(["ablation", *arguments.split(), "--folder", str(tmp_path)]) in (1, 2)
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def heed_interrupt() -> None:
    """Restore Ctrl-C: processes that a shell starts in the background ignore it, and so do their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_stopped_ablation_leaves_nothing_running_and_goes_on(options, tmp_path):
    """Ctrl-C that reaches the first process alone, as a scheduler sends it."""
    command = [sys.executable, "-m", "reference", "ablation", *options, "--folder", str(tmp_path), "--seeds", "3"]
    command += ["--processes=2", "--epochs=3000"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupt)
    while process.poll() is None and len(list(tmp_path.glob("*/checkpoint.pt"))) < 2:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()  # or a test that fails would train on
    assert process.returncode == 130
    assert "stopped; the same command resumes" in errors
    written = runs_in(tmp_path)
    time.sleep(1)  # many epochs of what would still be running
    assert runs_in(tmp_path) == written


def be_killed(*_) -> None:
    os._exit(1)


def test_a_killed_process_is_reported(options, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(parallel_runs, "_train_one", be_killed)
    assert main(["ablation", *options, "--seeds", "3", "--folder", str(tmp_path)]) == 1
    assert "a process that trained was killed" in capsys.readouterr().err


def test_images_that_changed(tmp_path):
    """Read by workers, in two processes."""
    data = write_images(tmp_path / "data")
    plan = demo.demo_plan(replace(BASE, data=str(data), batch_size=4), (5,))
    results = experiment.run(plan, tmp_path / "runs", processes=2, workers=1)
    assert results.images == (12, 12)
    before = runs_in(tmp_path / "runs")
    assert len(before) == 2
    # The same command for other images would have the table of these.
    next(data.glob("train/*/0.png")).unlink()
    with pytest.raises(ValueError, match="other images, which had 12 to train on, now 11"):
        experiment.run(plan, tmp_path / "runs")
    assert runs_in(tmp_path / "runs") == before


def test_a_table_of_what_is_finished(options, finished, tmp_path, capsys):
    folder = Path(shutil.copytree(finished, tmp_path / "runs"))
    plan = read(finished / "results.json").plan
    lines = {variant.name: variant for variant in plan.variants()}
    shutil.rmtree(folder / run_name(plan.base, replace(lines["+ L_dis"].settings, seed=8)))
    shutil.rmtree(folder / run_name(plan.base, replace(lines["2 epochs, cross-entropy"].settings, seed=3)))
    shutil.rmtree(folder / run_name(plan.base, replace(lines["label smoothing"].settings, seed=3)))
    shutil.rmtree(folder / run_name(plan.base, replace(lines["label smoothing"].settings, seed=8)))
    before = runs_in(folder)
    assert main(["ablation", *options, "--finished", "--seeds", "3", "8", "--folder", str(folder)]) == 0
    assert runs_in(folder) == before
    found = {variant.name: variant.seeds for variant in read(folder / "results.json").plan.variants()}
    assert found.pop("+ L_dis") == (3,)
    of_longer = [found.pop(name) for name in lines if name.startswith("2 epochs")]
    assert of_longer == [(8,)] * 3
    assert found == {name: (3, 8) for name in lines.keys() - {"label smoothing"} if name in found}
    assert len(found) == len(lines) - 5
    assert "  + L_dis (1 seed) " in capsys.readouterr().out
    assert main(["ablation", *options, "--finished", "--seeds", "3", "--folder", str(tmp_path)]) == 1
    assert f"no run of it is finished in {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "drops", "channels"),
    [
        ("", (0, "half", 0.75), (2, 3, 4, 6)),
        ("--channels-per-class 4", (0, 0.25, "half", 0.75), (2, 3, 4, 6)),
        ("--channels-per-class 1", (0,), (2, 3, 4, 6)),
        *((f"--recipe {name}-resnet18", (0, "half", 0.75), (2, 3, 4, 6)) for name in ("cub", "cars", "folder")),
        *((f"--recipe {name}-resnet50", (0, "half", 0.75), ()) for name in ("cub", "flowers", "folder")),
        ("--recipe cub-vgg16 --channels-per-class 4", (0, 0.25, "half", 0.75), (2, 3, 4, 6)),
        ("--recipe cub-resnet18 --over-drop 1 --over-channels-per-class", (1,), ()),
    ],
)
def test_what_is_compared_where_nothing_is_said(arguments, drops, channels, monkeypatch):
    plans = []

    def run(plan, *_):
        plans.append(plan)
        raise DivergedError

    monkeypatch.setattr(experiment, "run", run)
    assert main(["ablation", "--data", "DIR", *arguments.split()]) == 1
    (plan,) = plans
    names = {heading: [variant.name for variant in variants] for heading, variants in plan.sections.items()}
    assert names["channels of a class that are masked"] == [f"drop {drop}" for drop in drops]
    of_xi = names.get("channels of a class", [])
    assert of_xi == [f"ξ = {xi}, {name}" for xi in channels for name in ("cross-entropy", "+ L_dis + L_div")]


def test_what_the_runs_are_given(images, tmp_path, monkeypatch):
    given = {}

    def train_several(jobs, processes, **options):
        given.update(options, jobs=jobs, processes=processes)
        raise DivergedError

    monkeypatch.setattr(experiment, "train_several", train_several)
    monkeypatch.setattr(experiment, "usable_cores", lambda: 6)
    more = ["--threads=2", "--device=cpu", "--workers=3", "--seeds", "5", "--folder", str(tmp_path)]
    options = [*OPTIONS, "--pooling=max", "--channels-per-class=4", "--data", images, *more]
    assert main(["ablation", *options]) == 1
    assert (given["processes"], given["workers"], given["device"], given["resume"]) == (3, 3, "cpu", True)
    drops = {settings.drop for settings in given["jobs"]}
    assert drops == {0, 0.25, "half", 0.75}


def test_the_table_names_the_machines_that_trained(options, finished, tmp_path):
    folder = Path(shutil.copytree(finished, tmp_path / "runs"))
    metrics = next(folder.glob("*-seed3")) / "metrics.json"
    content = json.loads(metrics.read_text())
    content["environment"]["cpu"], content["environment"]["device"] = "another processor", "some GPU"
    metrics.write_text(json.dumps(content))
    assert main(["ablation", *options, "--seeds", "3", "8", "--folder", str(folder)]) == 0
    found = read(folder / "results.json").environment
    assert set(found["device"].split(" and ")) == {"cpu", "some GPU"}
    assert "another processor" in found["cpu"].split(" and ")
    assert found["python"] == platform.python_version()
