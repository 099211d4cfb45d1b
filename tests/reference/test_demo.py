"""The demo from its command line to its files, at a tiny size."""

import csv
import json
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from statistics import mean, stdev

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import without_seconds
from torch import nn

from mcl_triton import ChannelGroups
from reference.experiments import demo
from reference.figures import demo_figures
from reference.model.network import MCNetwork
from reference.training import train
from reference.training.environment import environment
from reference.training.settings import Settings

SETTINGS = Settings(epochs=2, training_photos=1, batch_size=20, channels_per_class=2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The demo's folder and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    arguments = "--epochs 2 --training-photos 1 --batch-size 20 --channels-per-class 2 --seeds 3 8"
    printed = StringIO()
    with redirect_stdout(printed):
        status = demo.main([*arguments.split(), "--folder", str(folder), "--figures", str(folder / "drawn")])
    assert status == 0
    return folder, printed.getvalue()


def results(folder):
    with open(folder / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_results_are_written_as_csv_and_json(finished):
    folder, _ = finished
    rows = results(folder)
    assert [(row["loss"], row["seed"]) for row in rows] == [
        ("cross-entropy", "3"),
        ("cross-entropy", "8"),
        ("cross-entropy + MC-Loss", "3"),
        ("cross-entropy + MC-Loss", "8"),
    ]
    assert set(demo.MEASURES) < set(rows[0])
    content = json.loads((folder / "results.json").read_text())
    assert content["settings"]["epochs"] == 2
    assert content["environment"] == environment()
    assert [{name: str(value) for name, value in run.items()} for run in content["runs"]] == rows


def test_every_run_has_its_metrics_and_its_checkpoint(finished):
    folder, _ = finished
    for row in results(folder):
        of_run = demo.run_folder(folder, row["loss"], int(row["seed"]))
        with open(of_run / "metrics.csv", newline="") as file:
            epochs = list(csv.DictReader(file))
        assert len(epochs) == 2
        assert epochs[-1]["test_accuracy"] == row["test_accuracy"]
        assert sum(float(epoch["seconds"]) for epoch in epochs) == pytest.approx(float(row["seconds"]))
        settings = train.saved_settings(of_run)
        assert settings.weights == ((0, 0) if row["loss"] == "cross-entropy" else Settings().weights)
        assert settings.seed == int(row["seed"])


def test_a_run_is_that_of_train(finished, tmp_path):
    folder, _ = finished
    settings = replace(SETTINGS, seed=8)
    rows = train.train(train.build_network(settings), *train.load_data(settings), settings, tmp_path, progress=False)
    (row,) = [row for row in results(folder) if (row["loss"], row["seed"]) == (demo.MC_LOSS, "8")]
    (last,) = without_seconds(rows[-1:])
    assert {name: float(row[name]) for name in last} == last


def test_the_table_holds_means_deviations_and_paired_differences(finished):
    folder, printed = finished
    rows = results(folder)
    columns = {"test_accuracy": (100, 1), "test_discriminality": (1, 2), "test_diversity": (1, 2)}
    for loss in (demo.CROSS_ENTROPY, demo.MC_LOSS):
        (line,) = [line for line in printed.splitlines() if line.startswith(loss + "  ")]
        for name, (scale, digits) in columns.items():
            values = [scale * float(row[name]) for row in rows if row["loss"] == loss]
            assert f" {mean(values):.{digits}f} ± {stdev(values):.{digits}f}" in line
    (line,) = [line for line in printed.splitlines() if line.startswith("difference")]
    without, with_mc = ([float(row["test_diversity"]) for row in half] for half in (rows[:2], rows[2:]))
    differences = [b - a for a, b in zip(without, with_mc, strict=True)]
    assert f" {mean(differences):+.2f} ± {stdev(differences):.2f}" in line
    assert str(environment()["cpu"]) in printed
    assert torch.__version__ in printed


def test_one_seed_has_no_deviation():
    row = {name: 0.5 for name in demo.MEASURES}
    text = demo.table({demo.CROSS_ENTROPY: {7: [row]}, demo.MC_LOSS: {7: [{**row, "test_accuracy": 0.75}]}})
    lines = text.splitlines()
    assert lines[1].split()[1:] == ["50.0", "0.50", "0.50", "0.50", "0"]
    assert "+25.0" in lines[3]
    assert "higher on 1 of 1 seeds, lower on 0" in lines[-1]
    assert "±" not in "".join(lines[:4])


def test_pictures_are_drawn(finished):
    folder, printed = finished
    for name in ("demo_curves.png", "demo_channels.png"):
        path = folder / "drawn" / name
        assert str(path) in printed
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert min(pixels.shape[:2]) > 300
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
        assert (pixels.min(axis=2) < 250).mean() > 0.05  # not just paper
        edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
        assert all((edge == 255).all() for edge in edges), "something is cut off"


class FixedFeatures(nn.Module):
    """Two classes of two channels: the first of class 1 looks at the upper left corner, class 0 everywhere."""

    def forward(self, images):
        features = torch.zeros(len(images), 4, 4, 3)
        features[:, :2] = 9
        features[:, 2, 0, 0] = 5
        return features


def test_figures_that_cannot_be_written(finished, monkeypatch, capsys):
    folder, _ = finished
    losses = {loss: demo.run_folder(folder, loss, 3) / "metrics.json" for loss in (demo.CROSS_ENTROPY, demo.MC_LOSS)}
    runs = {loss: {3: json.loads(path.read_text())["epochs"]} for loss, path in losses.items()}
    monkeypatch.setattr(demo, "train_all", lambda *_: runs)
    monkeypatch.setattr(demo, "write_results", lambda *_: None)
    assert demo.main(["--seeds", "3", "--folder", str(folder), "--figures", str(folder / "results.csv")]) == 1
    assert f"File exists: '{folder / 'results.csv'}'" in capsys.readouterr().err


def test_maps_are_those_of_the_own_class():
    network = MCNetwork(FixedFeatures(), ChannelGroups([2, 2]))
    maps, diversity = demo_figures.own_maps(network, torch.zeros(2, 1, 16, 12), torch.tensor([1, 0]))
    assert maps.shape == (2, 3, 16, 12)
    corner, silent, maximum = maps[0]
    assert corner[0, 0] == 1
    assert corner[8:].max() == 0
    assert silent.max() == 0
    assert torch.equal(maximum, corner)
    assert maps[1].min() == 1
    peak = np.exp(5) / (np.exp(5) + 11)
    assert diversity.tolist() == pytest.approx([peak + 11 / 12, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--weights 0 0", "no MC-Loss to compare"),
        ("--seeds 1 1", "seeds must differ"),
        ("--processes 0", "processes must be at least 1"),
        ("--epochs 0", "epochs must be at least 1"),
    ],
)
def test_bad_options(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        demo.main([*arguments.split(), "--folder", str(tmp_path)])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
