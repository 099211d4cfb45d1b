"""The animation of a class's channels, at a tiny size."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from few_fonts import CLASSES, FOLDER
from matplotlib.colors import to_rgb
from PIL import Image, ImageSequence

from reference.__main__ import main
from reference.experiments.animation import record
from reference.figures.moving_channels import coloured
from reference.figures.theme import DARK, LIGHT
from reference.training.build import build_network, load_data
from reference.training.settings import Settings
from reference.training.trainer import train

FIGURES = Path(__file__).parents[2] / "docs" / "figures"
SETTINGS = Settings(data=FOLDER, epochs=2, evaluate_every=1, batch_size=20, channels_per_class=2)
OPTIONS = ["--data", FOLDER, "--epochs", "2", "--batch-size", "20", "--channels-per-class", "2"]


def test_there_is_a_frame_before_the_first_epoch_and_after_each(tmp_path, capsys):
    assert main(["animate", *OPTIONS, "--output", str(tmp_path / "new")]) == 0
    printed = capsys.readouterr().out
    for theme in (LIGHT, DARK):
        path = tmp_path / "new" / f"channels_move-{theme.name}.gif"
        assert str(path) in printed
        with Image.open(path) as film:
            frames = [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(film)]
        assert len(frames) == 3
        assert frames[0].shape[1] == 800
        background = 255 * np.array(to_rgb(theme.background))
        assert all(np.abs(frame[0, 0] - background).max() < 1 for frame in frames)
        for one, next_one in pairwise(frames):
            moved = (np.abs(one - next_one).max(axis=2) > 30).mean(axis=1)
            assert moved[:60].max() == 0  # the title stays
            assert moved.max() > 0.01


def test_the_networks_are_those_of_train(tmp_path):
    moments = record(SETTINGS, lambda network: network.features[0].weight.detach().clone())
    network = build_network(SETTINGS, len(CLASSES))
    first = network.features[0].weight.detach().clone()
    train(network, *load_data(SETTINGS), SETTINGS, tmp_path, progress=False)
    assert [moment.epoch for moment in moments] == [0, 1, 2]
    assert torch.equal(moments[0].maps, first)
    assert torch.equal(moments[-1].maps, network.features[0].weight)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_channels_colour_the_paper_and_leave_the_ink(theme):
    photo = torch.tensor([[1.0, 0.9, 1.0, 0.0]])
    maps = torch.tensor([[[0.0, 0.0, 1.0, 1.0]], [[0.0, 0.0, 0.0, 0.0]]])
    paper, noise, painted, ink = coloured(photo, maps, theme)[0]
    assert np.allclose(paper, to_rgb(theme.background))
    assert np.allclose(noise, to_rgb(theme.background))
    assert np.allclose(
        painted, 0.1 * np.array(to_rgb(theme.background)) + 0.9 * np.array(to_rgb(theme.colors["orange"]))
    )
    assert np.allclose(ink, to_rgb(theme.ink))


@pytest.mark.parametrize("name", ["light", "dark"])
def test_that_of_the_page_is_small(name):
    assert (FIGURES / f"channels_move-{name}.gif").stat().st_size < 2e6


def test_without_mc_loss_there_is_nothing_to_compare(tmp_path, capsys):
    assert main(["animate", *OPTIONS, "--weights", "0", "0", "--output", str(tmp_path)]) == 1
    assert "no MC-Loss to compare" in capsys.readouterr().err
