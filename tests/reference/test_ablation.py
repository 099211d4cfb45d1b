"""The ablation: what its variants train, its statistics, its files, and that nothing is trained twice."""

from __future__ import annotations

import csv
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
from PIL import Image
from scipy.stats import ttest_rel
from torch.nn.functional import cross_entropy

from reference.experiments import ablation, figure, parallel_runs
from reference.experiments.plan import Plan, run_name
from reference.experiments.results import Results, read, write
from reference.experiments.table import table
from reference.formulas import paper as oracle
from reference.training.build import build_network, load_data
from reference.training.checkpoint import load
from reference.training.recipes import RECIPES
from reference.training.settings import Settings
from reference.training.train import train
from reference.training.trainer import DivergedError, Run, draw_mask

ROOT = Path(__file__).parents[2]
BASE = Settings(epochs=1, training_photos=1, channels_per_class=4, weights=(0.5, 3))
PLAN = Plan(BASE, seeds=(3, 8, 5, 1), channels=(2, 6), drops=(1, 0.75))

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
}
VARIANTS = {variant.name: variant for variants in PLAN.sections().values() for variant in variants}


# What is trained


def test_the_lines_of_the_table():
    assert list(VARIANTS) == [*COMPONENTS, *OTHERS]
    assert [len(variants) for variants in PLAN.sections().values()] == [5, 2, 4]
    assert [len(variants) for variants in Plan(BASE, (0,)).sections().values()] == [5]


@pytest.mark.parametrize(("name", "expected"), (COMPONENTS | OTHERS).items())
def test_the_objective_of_a_variant_is_what_its_name_says(name, expected):
    alpha, beta, masked = expected
    settings = VARIANTS[name].settings
    network = build_network(settings)
    mask = draw_mask(network, torch.device("cpu"))
    xi = int(name[4]) if name.startswith("ξ") else 4
    zeros = torch.zeros(40) if mask is None else (mask.reshape(40, xi) == 0).sum(dim=1)
    assert zeros.tolist() == [masked] * 40
    images, targets = torch.randn(6, 1, 56, 46), torch.randint(40, (6,))
    _, loss, output = network(images, targets, mask)
    if output is not None:
        loss = loss + output.loss
    features = network.extract(images)
    expected_loss = cross_entropy(network.classify(features), targets)
    if alpha or beta:
        expected_loss = expected_loss + oracle.official_loss(features, targets, [xi] * 40, mask, alpha, beta)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-5)


def test_variants_of_a_seed_start_alike_and_see_the_same_images():
    first = VARIANTS["cross-entropy"].settings
    weights, (train_set, _) = build_network(first).state_dict(), load_data(first)
    batches = list(next(Run(build_network(first), first, 40, []).steps(train_set)))
    for variant in VARIANTS.values():
        settings, others = variant.settings, build_network(variant.settings).state_dict()
        if settings.channels_per_class == 4:
            assert all(torch.equal(others[name], weights[name]) for name in weights)
        own = build_network(variant.baseline).state_dict()
        assert all(torch.equal(others[name], own[name]) for name in own)
        run = Run(build_network(settings), settings, 40, [])
        for (images, people), (expected, expected_people) in zip(next(run.steps(train_set)), batches, strict=True):
            assert torch.equal(images, expected)
            assert torch.equal(people, expected_people)


def test_the_baseline_is_the_same_network_by_cross_entropy_alone():
    for name, variant in VARIANTS.items():
        assert variant.baseline.weights == (0, 0)
        assert variant.baseline.channels_per_class == (int(name[4]) if name.startswith("ξ") else 4)
        assert (variant.settings == variant.baseline) == ("cross-entropy" in name)


def test_every_run_is_trained_once_and_has_a_folder_of_its_own():
    settings = PLAN.settings()
    assert len(settings) == len(set(settings)) == 4 * (5 + 2 + 4)
    assert len({run_name(each) for each in settings}) == len(settings)
    assert [each.seed for each in settings[:11]] == [3] * 11  # so that what is there early is whole
    again = Plan(BASE, (0,), channels=(4,), drops=(0, "half"))
    assert len(again.settings()) == 5


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
    return np.array([results.rows[replace(settings, seed=seed)][measure] for seed in results.plan.seeds])


def test_the_statistics_of_the_table():
    results = made_up()
    found = cells_of(table(results))
    assert set(found) == set(VARIANTS)
    stars = set()
    for name, variant in VARIANTS.items():
        accuracy = 100 * column(results, variant.settings, "test_accuracy")
        expected = [f"{np.mean(accuracy):.1f} ± {np.std(accuracy, ddof=1):.1f}"]
        if "cross-entropy" not in name:
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
    results = made_up(Plan(BASE, (0, 1)))
    for settings, row in results.rows.items():
        row["test_accuracy"] = 0.5 if settings.seed == 0 or not any(settings.weights) else 0.25
    found = cells_of(table(results))["+ L_dis"]
    assert found[:3] == ["37.5 ± 17.7", "-12.5 ± 17.7", "0/1"]


def test_differences_without_spread_get_no_star():
    results = made_up(Plan(BASE, (0, 1, 2)))
    for settings, row in results.rows.items():
        row["test_accuracy"] = 0.75 if any(settings.weights) else 0.5
    assert cells_of(table(results))["+ L_dis"][:3] == ["75.0 ± 0.0", "+25.0 ± 0.0", "3/0"]


def test_one_seed_has_neither_spread_nor_stars():
    text = table(made_up(replace(PLAN, seeds=(7,))))
    assert "±" not in text
    assert "*" not in text


def test_without_overlap_there_is_a_dash():
    results = made_up()
    for row in results.rows.values():
        row["test_overlap"] = math.nan
    assert [line[-1] for line in table(results).splitlines() if "±" in line][:11] == ["–"] * 11


def test_the_figure_shows_every_number(monkeypatch, tmp_path):
    results = made_up()
    figures = []
    monkeypatch.setattr(figure, "save", lambda drawn, path: figures.append((drawn, path)))
    figure.draw_ablation(results, tmp_path / "a.png")
    ((made, path),) = figures
    assert path == tmp_path / "a.png"
    difference, diversity, overlap = made.axes
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
    assert set(drawn(difference, "o")) == {name for name in VARIANTS if "cross-entropy" not in name}
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
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(results.rows)
    for settings, row in zip(PLAN.settings(), rows, strict=True):
        assert (float(row["alpha"]), float(row["beta"])) == settings.weights
        assert (row["channels_per_class"], row["drop"], row["seed"]) == (
            str(settings.channels_per_class),
            str(settings.drop),
            str(settings.seed),
        )
        assert float(row["test_accuracy"]) == results.rows[settings]["test_accuracy"]


def test_where_the_data_lie_is_no_part_of_the_results(tmp_path):
    plan = replace(PLAN, base=replace(BASE, data="somewhere"))
    write(tmp_path / "results.json", made_up(plan))
    assert "somewhere" not in (tmp_path / "results.json").read_text()
    assert table(read(tmp_path / "results.json")) == table(made_up(plan))


def test_a_file_that_is_none(tmp_path, capsys):
    assert ablation.main(["--redraw", str(tmp_path / "none.json")]) == 1
    assert "there are no results" in capsys.readouterr().err
    (tmp_path / "other.json").write_text('{"base": {}}')
    with pytest.raises(ValueError, match=r"other\.json must be the JSON file of an ablation"):
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
    assert ablation.main(["--redraw", str(tmp_path / "results.json"), "--figures", str(tmp_path)]) == 1
    assert "must have test_overlap of every run" in capsys.readouterr().err


def test_a_figure_that_cannot_be_written(tmp_path, capsys):
    write(tmp_path / "results.json", made_up())
    assert ablation.main(["--redraw", str(tmp_path / "results.json"), "--figures", str(tmp_path / "results.json")]) == 1
    assert f"File exists: '{tmp_path / 'results.json'}'" in capsys.readouterr().err


def test_the_page_has_the_table_of_its_results():
    page = (ROOT / "docs" / "ablations.md").read_text()
    assert f"```text\n{table(read(ROOT / 'docs' / 'ablations.json'))}\n```" in page
    assert (ROOT / "docs" / "figures" / "ablation.png").is_file()


# Runs, several at a time


class Messages(list):
    put = list.append


@pytest.fixture
def messages(monkeypatch) -> Messages:
    """What a process that trains would send to the first one."""
    sent = Messages()
    monkeypatch.setattr(parallel_runs, "_epochs", sent, raising=False)
    return sent


def test_a_run_that_was_stopped_goes_on_and_one_that_is_finished_stays(messages, tmp_path):
    settings = replace(BASE, epochs=2)
    network, (train_set, test_set) = build_network(settings), load_data(settings)
    calls = []

    def stop(row):
        calls.append(row)
        if len(calls) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(network, train_set, test_set, settings, tmp_path / "a", progress=False, on_epoch=stop)
    rows = parallel_runs._train_one(settings, tmp_path / "a", True, "cpu", 0)
    assert sum(messages) == 2
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["seconds"] for row in rows[:1]] == [row["seconds"] for row in calls], "the first one was trained again"
    whole = parallel_runs._train_one(settings, tmp_path / "b", False, "cpu", 0)
    assert [row["train_loss"] for row in rows] == [row["train_loss"] for row in whole]

    messages.clear()
    assert parallel_runs._train_one(settings, tmp_path / "b", True, "cpu", 0) == whole
    assert messages == [2]


def test_a_run_that_diverges_is_named(messages, tmp_path):
    settings = replace(BASE, learning_rate=1e30)
    with pytest.raises(DivergedError, match=rf"^{re.escape(str(tmp_path))}: the training loss is"):
        parallel_runs._train_one(settings, tmp_path, True, "cpu", 0)


# The command


OPTIONS = ["--epochs=1", "--training-photos=1", "--over-drop=0.75", "--over-channels-per-class", "--processes=1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    assert ablation.main([*OPTIONS, "--seeds", "3", "8", "--folder", str(folder)]) == 0
    return folder


def runs_in(folder) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/checkpoint.pt")}


def test_results_are_those_of_the_runs(finished, capsys):
    results = read(finished / "results.json")
    assert len(results.rows) == len(runs_in(finished)) == 2 * 6
    for settings, row in results.rows.items():
        state = load(finished / run_name(settings) / "checkpoint.pt")
        assert state.settings == settings
        (epoch,) = state.rows
        assert epoch == row
    assert ablation.main(["--redraw", str(finished / "results.json"), "--figures", str(finished / "drawn")]) == 0
    assert table(results) in capsys.readouterr().out
    assert (finished / "drawn" / "ablation.png").read_bytes() == (finished / "ablation.png").read_bytes()


def test_nothing_is_trained_twice(finished, tmp_path):
    finished = Path(shutil.copytree(finished, tmp_path / "runs"))  # this test adds runs, and all others use them
    before, results = runs_in(finished), (finished / "results.json").read_text()
    assert ablation.main([*OPTIONS, "--seeds", "3", "8", "--folder", str(finished)]) == 0
    assert runs_in(finished) == before
    assert (finished / "results.json").read_text() == results
    # Another seed adds runs and leaves those that are there.
    assert ablation.main([*OPTIONS, "--seeds", "8", "4", "--over-drop", "--folder", str(finished)]) == 0
    after = runs_in(finished)
    assert {name: after[name] for name in before} == before
    assert {name.rsplit("-", 1)[1] for name in after.keys() - before.keys()} == {"seed4"}
    assert len(after) == len(before) + 5
    assert read(finished / "results.json").plan.seeds == (8, 4)


def test_runs_of_other_settings_are_not_taken(finished, capsys):
    before = runs_in(finished)
    assert ablation.main([*OPTIONS, "--seeds", "3", "--epochs", "2", "--folder", str(finished)]) == 1
    assert "must have the same settings; they differ: epochs 1 and 2" in capsys.readouterr().err
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
        ("--over-drop 4", "drop must leave a channel of each class, at most 3 for ξ = 4; got 4"),
        ("--over-drop 0.1", "drop 0.1 masks none of 4 channels"),
        ("--drop 3", "at most 1 for ξ = 2; got 3. A fraction"),
        ("--over-drop 1.5", "drop must be"),
        ("--recipe cub-resnet50 --over-channels-per-class 3", "there is no ξ to compare"),
        ("--recipe cub-resnet51", "there is no recipe 'cub-resnet51'"),
        ("--processes 0", "processes must be at least 1"),
        ("--epochs 0", "epochs must be at least 1"),
    ],
)
def test_bad_options(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        ablation.main([*arguments.split(), "--folder", str(tmp_path)])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_recipe_gives_the_base(tmp_path, capsys):
    assert ablation.main(["--recipe", "cub-resnet50", "--folder", str(tmp_path)]) == 1
    assert "cub needs --data" in capsys.readouterr().err


def test_a_device_that_is_not_there(tmp_path, capsys):
    assert ablation.main([*OPTIONS, "--device", "nowhere", "--folder", str(tmp_path)]) == 1
    assert "device must be auto or one of this machine" in capsys.readouterr().err


def heed_interrupt() -> None:
    """What a shell starts in the background, these tests perhaps, ignores Ctrl-C, and so does what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_stopped_ablation_leaves_nothing_running_and_goes_on(tmp_path):
    """Ctrl-C that reaches the first process alone, as a scheduler sends it."""
    command = [sys.executable, "-m", "reference", "ablation", "--folder", str(tmp_path), "--seeds", "3", "--over-drop"]
    command += ["--over-channels-per-class", "--training-photos=1", "--processes=2", "--epochs=3000"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupt)
    while process.poll() is None and len(list(tmp_path.glob("*/checkpoint.pt"))) < 2:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()  # or a test that fails would train on
    assert process.returncode == 130
    assert "stopped; the same command goes on." in errors
    written = runs_in(tmp_path)
    time.sleep(1)  # many epochs of what would still be running
    assert runs_in(tmp_path) == written


def be_killed(*_) -> None:
    os._exit(1)


def test_a_killed_process_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(parallel_runs, "_train_one", be_killed)
    assert ablation.main([*OPTIONS, "--seeds", "3", "--folder", str(tmp_path)]) == 1
    assert "a process that trained was killed" in capsys.readouterr().err


def test_a_folder_of_images(tmp_path, capsys):
    """Three classes rather than the faces' forty, read by workers, in two processes."""
    for split, count in (("train", 4), ("test", 2)):
        for name in ("Wren", "Crow", "Kite"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.random.default_rng(number).integers(256, size=(40, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{number}.png")
    options = ["--dataset=folder", f"--data={tmp_path / 'data'}", "--transform=from_scratch", "--batch-size=4"]
    options += ["--epochs=1", "--over-drop", "--over-channels-per-class", "--processes=2", "--workers=1"]
    assert ablation.main([*options, "--seeds", "5", "--folder", str(tmp_path / "runs")]) == 0
    second_line = capsys.readouterr().out.splitlines()[1]
    assert second_line.endswith("12 images to train on, 6 to test; the small network")
    before = runs_in(tmp_path / "runs")
    assert len(before) == 5
    # The same command for other images would have the table of these.
    (tmp_path / "data" / "train" / "Wren" / "0.png").unlink()
    assert ablation.main([*options, "--seeds", "5", "--folder", str(tmp_path / "runs")]) == 1
    assert "other images, which had 12 to train on, now 11" in capsys.readouterr().err
    assert runs_in(tmp_path / "runs") == before


@pytest.mark.parametrize(
    ("arguments", "drops", "channels"),
    [
        ("", (0, 0.25, "half", 0.75), (2, 3, 4, 6)),
        ("--channels-per-class 3", (0, "half", 0.75), (2, 3, 4, 6)),
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

    monkeypatch.setattr(ablation, "run", run)
    assert ablation.main(arguments.split()) == 1
    assert [(plan.drops, plan.channels) for plan in plans] == [(drops, channels)]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_can_be_the_base(recipe, monkeypatch):
    monkeypatch.setattr(ablation, "run", lambda plan, *_: (_ for _ in ()).throw(DivergedError))
    assert ablation.main(["--recipe", recipe]) == 1


def test_what_the_runs_are_given(tmp_path, monkeypatch):
    given = {}

    def train_several(jobs, processes, **options):
        given.update(options, jobs=jobs, processes=processes)
        raise DivergedError

    monkeypatch.setattr(ablation, "train_several", train_several)
    monkeypatch.setattr(ablation, "usable_cores", lambda: 6)
    options = ["--threads=2", "--device=cpu", "--workers=3", "--seeds", "5", "--folder", str(tmp_path)]
    assert ablation.main(options) == 1
    assert (given["processes"], given["workers"], given["device"], given["resume"]) == (3, 3, "cpu", True)
    drops = {settings.drop for settings in given["jobs"]}
    assert drops == {0, 0.25, "half", 0.75}


def test_the_table_names_the_machines_that_trained(finished, tmp_path):
    folder = Path(shutil.copytree(finished, tmp_path / "runs"))
    metrics = next(folder.glob("*-seed3")) / "metrics.json"
    content = json.loads(metrics.read_text())
    content["environment"]["cpu"], content["environment"]["device"] = "another processor", "some GPU"
    metrics.write_text(json.dumps(content))
    assert ablation.main([*OPTIONS, "--seeds", "3", "8", "--folder", str(folder)]) == 0
    found = read(folder / "results.json").environment
    assert set(found["device"].split(" and ")) == {"cpu", "some GPU"}
    assert "another processor" in found["cpu"].split(" and ")
    assert found["python"] == platform.python_version()


def test_equal_differences_get_no_star():
    """Two seeds with as many images more each have no spread, and say nothing."""
    results = made_up(replace(PLAN, seeds=(7, 8)))
    for settings, row in results.rows.items():
        row["test_accuracy"] = 0.75 if any(settings.weights) else 0.5
    lines = [line for line in table(results).splitlines() if "+25.0 ± 0.0" in line]
    assert lines
    assert not [line for line in lines if "*" in line]
