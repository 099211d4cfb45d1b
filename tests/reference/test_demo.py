"""The demo from its command line to its files, at a tiny size."""

import json
import re
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from statistics import mean, stdev

import numpy as np
import pytest
import torch
from few_fonts import CLASSES, FOLDER
from PIL import Image, ImageColor
from small_run import without_seconds
from torch import nn

from mcl_triton import ChannelGroups
from reference.__main__ import main
from reference.experiments import demo
from reference.experiments.plan import run_name
from reference.experiments.results import read
from reference.figures.own_channels import own_maps
from reference.figures.theme import DARK, LIGHT
from reference.model.network import MCNetwork
from reference.training import train
from reference.training.checkpoint import load_network
from reference.training.environment import environment
from reference.training.settings import Settings

SETTINGS = Settings(data=FOLDER, epochs=2, batch_size=20, channels_per_class=2)
OPTIONS = [
    *("--data", FOLDER, "--epochs", "2", "--batch-size", "20", "--channels-per-class", "2"),
    *("--processes", "1", "--device", "cpu"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The demo's folder and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    printed = StringIO()
    with redirect_stdout(printed):
        arguments = [*OPTIONS, "--seeds", "3", "8", "--folder", str(folder), "--figures", str(folder / "drawn")]
        assert main(["demo", *arguments]) == 0
    return folder, printed.getvalue()


def test_the_two_losses():
    plan = demo.demo_plan(SETTINGS, (3, 8))
    without, with_mc = plan.sections["loss"]
    assert without.settings == without.baseline == with_mc.baseline == replace(SETTINGS, weights=(0, 0), drop=0)
    assert with_mc.settings == SETTINGS
    assert [(any(settings.weights), settings.seed) for settings in plan.settings()] == [
        *((False, 3), (True, 3), (False, 8), (True, 8)),
    ]


def test_a_run_is_that_of_train(finished, tmp_path):
    folder, _ = finished
    settings = replace(SETTINGS, seed=8)
    network = train.build_network(settings, len(CLASSES))
    rows = train.train(network, *train.load_data(settings), settings, tmp_path, progress=False)
    found = read(folder / "results.json").rows[replace(settings, data="")]
    assert without_seconds([found]) == without_seconds(rows[-1:])


def test_the_table_has_means_deviations_differences_and_wins(finished):
    folder, printed = finished
    results = read(folder / "results.json")
    values = {}
    for loss, weights in ((demo.CROSS_ENTROPY, False), (demo.MC_LOSS, True)):
        rows = [row for settings, row in results.rows.items() if any(settings.weights) == weights]
        (line,) = [line for line in printed.splitlines() if line.startswith(f"  {loss}  ")]
        columns = {"accuracy": (100, 1), "discriminality": (1, 2), "diversity_fraction": (1, 2), "overlap": (1, 3)}
        for name, (scale, digits) in columns.items():
            values[loss, name] = [scale * row[f"test_{name}"] for row in rows]
            assert f" {mean(values[loss, name]):.{digits}f} ± {stdev(values[loss, name]):.{digits}f}" in line
        seconds = [row["seconds"] for row in rows]
        assert line.endswith(f" {mean(seconds):.0f} ± {stdev(seconds):.0f}")
    pairs = zip(values[demo.CROSS_ENTROPY, "accuracy"], values[demo.MC_LOSS, "accuracy"], strict=True)
    differences = [b - a for a, b in pairs]
    assert f" {mean(differences):+.1f} ± {stdev(differences):.1f}" in line
    wins = f"{sum(value > 0 for value in differences)}/{sum(value < 0 for value in differences)}"
    assert re.search(rf" {wins} ", line)
    assert str(environment()["cpu"]) in printed
    assert f"torch {torch.__version__}" in printed
    assert "40 images to train on, 80 to test" in printed


@pytest.mark.parametrize(("name", "paper"), [("light", LIGHT.background), ("dark", DARK.background)])
def test_the_picture_is_drawn(finished, name, paper):
    folder, printed = finished
    path = folder / "drawn" / f"demo_channels-{name}.png"
    assert str(path) in printed
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert min(pixels.shape[:2]) > 150
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
    background = ImageColor.getrgb(paper)
    assert (pixels != background).any(axis=2).mean() > 0.05  # not just paper
    edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    assert all((edge == background).all() for edge in edges), "something is cut off"


def test_the_page_has_both_networks_and_the_numbers_of_each(finished):
    folder, printed = finished
    path = folder / "drawn" / "demo_channels.html"
    assert str(path) in printed
    (data,) = re.findall(r'id="data">(.*?)</script>', path.read_text(), flags=re.DOTALL)
    images = json.loads(data)
    assert [image["name"] for image in images] == CLASSES
    first = replace(SETTINGS, seed=3)
    _, test_set = train.load_data(first)
    for place, settings in enumerate((replace(first, weights=(0, 0), drop=0), first)):
        network, _, _ = load_network(folder / run_name(SETTINGS, settings) / "checkpoint.pt")
        for label, image in enumerate(images):
            assert [one["name"] for one in image["networks"]] == [demo.CROSS_ENTROPY, demo.MC_LOSS]
            view = image["networks"][place]["views"][0]
            picture, _ = test_set[test_set.targets.index(label)]
            with torch.inference_mode():
                features = network.eval().extract(picture[None])
                probability = network.classify(features).softmax(dim=1)[0, label]
            own = features[0, 2 * label : 2 * label + 2].flatten(1).softmax(dim=1)
            assert view["title"] == CLASSES[label] + (" (true and predicted)" if probability > 0.5 else " (true)")
            assert view["probability"] == f"{probability:.1%}"
            assert view["diversity"] == f"{own.amax(dim=0).sum():.2f} of 2"
            assert len(view["maps"]) == 2


class FixedFeatures(nn.Module):
    """Two classes of two channels: the first of class 1 looks at the upper left corner, class 0 everywhere."""

    def forward(self, images):
        features = torch.zeros(len(images), 4, 4, 3)
        features[:, :2] = 9
        features[:, 2, 0, 0] = 5
        return features


def test_maps_are_those_of_the_own_class():
    network = MCNetwork(FixedFeatures(), ChannelGroups([2, 2]))
    maps, diversity = own_maps(network, torch.zeros(2, 1, 16, 12), torch.tensor([1, 0]))
    assert maps.shape == (2, 2, 16, 12)
    corner, silent = maps[0]
    assert corner[0, 0] == 1
    assert corner[8:].max() == 0
    assert silent.max() == 0
    assert maps[1].min() == 1
    peak = np.exp(5) / (np.exp(5) + 11)
    assert diversity.tolist() == pytest.approx([peak + 11 / 12, 1])


def test_nothing_is_trained_twice_and_a_picture_that_cannot_be_written(finished, capsys):
    folder, _ = finished
    checkpoints = {path: path.stat().st_mtime_ns for path in folder.glob("*/checkpoint.pt")}
    assert {path.parent.name for path in checkpoints} == {
        run_name(SETTINGS, settings) for settings in demo.demo_plan(SETTINGS, (3, 8)).settings()
    }
    figures = ["--figures", str(folder / "results.json")]
    assert main(["demo", *OPTIONS, "--seeds", "3", "8", "--folder", str(folder), *figures]) == 1
    assert f"File exists: '{folder / 'results.json'}'" in capsys.readouterr().err
    assert checkpoints == {path: path.stat().st_mtime_ns for path in folder.glob("*/checkpoint.pt")}


def test_without_mc_loss_there_is_nothing_to_compare(tmp_path, capsys):
    assert main(["demo", "--weights", "0", "0", "--folder", str(tmp_path)]) == 1
    assert "no MC-Loss to compare" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
