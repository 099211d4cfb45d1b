"""Where channels look on words: shares, blanking, and the accuracy that is left."""

import math

import pytest
import torch
from few_fonts import FOLDER

from mcl_triton import ChannelGroups
from reference.__main__ import main
from reference.channels.regions import accuracy_without, blanked, border_channels, object_positions, share_on_object
from reference.experiments import borders, word_regions
from reference.model.network import small_extractor
from reference.training.build import build_network, load_data
from reference.training.settings import Settings
from reference.training.trainer import train as train_network

GROUPS = ChannelGroups([2, 2])


def make_ink():
    """One image of 8×20 pixels, 4×10 positions: the object covers the positions of the two upper rows, left half."""
    ink = torch.zeros(1, 8, 20)
    ink[0, :4, :10] = 1
    return ink


def test_positions_have_the_mean_of_their_pixels():
    ink = make_ink()
    ink[0, 4, 0] = 1
    expected = torch.zeros(4, 10)
    expected[:2, :5] = 1
    expected[2, 0] = 0.25
    assert torch.equal(object_positions(ink, (4, 10))[0], expected)


def test_the_share_of_the_top_tenth_on_the_object():
    features = torch.zeros(1, 4, 4, 10)
    features[0, 2, 0, :2] = 3.0  # of 4 top positions, two are on the object
    features[0, 2, 3, 8:] = 2.0
    features[0, 3, :, 4] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    share = share_on_object(features, GROUPS, torch.tensor([1]), make_ink())
    assert share.tolist() == [[0.5, 0.5]]
    features[0, 3] = 7.0  # the same everywhere
    share = share_on_object(features, GROUPS, torch.tensor([1]), make_ink())
    assert share[0, 0] == 0.5
    assert math.isnan(share[0, 1])


def test_channels_at_the_border_and_what_an_empty_image_shows_there():
    features, empty = torch.zeros(4, 4, 4, 5), torch.zeros(4, 4, 5)
    classes = torch.tensor([0, 0, 1, 1])
    features[:2, 0, 0, 2] = torch.tensor([1.0, 3.0])  # the first channel of class 0, at the border
    features[:2, 1, 1, 2] = 5.0
    features[2:, 2, 2, 1] = 5.0
    features[2:, 3, 3, 4] = 6.0  # the second one of class 1
    features[2:, 0, 1, 1] = 100.0  # of a class that is not the images'
    empty[0, 0, 2], empty[3, 3, 4], empty[1, 0, 0] = 1.0, 3.0, 100.0
    share, remains = border_channels(features, GROUPS, classes, empty)
    assert share == 0.5
    assert remains == pytest.approx((1 + 3) / (2 + 6))


def test_blanking_hides_the_first_positions_of_the_order_on_the_object_and_no_more():
    ink, images = make_ink(), torch.ones(1, 1, 8, 20)
    order = torch.arange(40.0).reshape(1, 4, 10)  # the largest are elsewhere, and must stay
    hidden = blanked(images, ink, order, 0.3)[0, 0] == 0
    expected = torch.zeros(8, 20, dtype=torch.bool)
    expected[2:4, 4:10] = True  # 3 of the 10 positions of the object: the last of its second row
    assert torch.equal(hidden, expected)
    assert torch.equal(blanked(images, ink, -order, 0.3)[0, 0, :2, :6], torch.zeros(2, 6))


def test_blanking_what_the_class_looks_at_costs_what_it_decides_by():
    """A network that decides by the brightness of one position, at which its channels look."""
    ink = make_ink().expand(6, -1, -1)
    images, targets = torch.rand(6, 1, 8, 20) * ink[:, None] * 0.1, torch.tensor([0, 1] * 3)
    images[:, 0, 0:2, 0:2] = torch.where(targets == 0, 1.0, 2.0)[:, None, None]

    def extract(batch):
        seen = batch[:, :, 0:2, 0:2].mean(dim=(2, 3))  # [B, 1]
        features = torch.zeros(len(batch), 4, 4, 10)
        features[:, :, 0, 0] = seen
        return features

    def classify(features):
        brightness = features[:, 0, 0, 0]
        return torch.stack([1.5 - brightness, brightness - 1.5], dim=1)

    generator = torch.Generator().manual_seed(0)
    found = accuracy_without(extract, classify, GROUPS, images, targets, ink, 0.1, generator)
    assert (found["whole"], found["most"], found["least"]) == (1, 0.5, 1)
    assert found["random"] >= 0.5


def test_the_command_measures_runs_on_typefaces(tmp_path, capsys):
    paths = []
    for weights in ((0, 0), (5, 10)):
        settings = Settings(data=FOLDER, epochs=1, batch_size=20, channels_per_class=2, weights=weights)
        train_set, test_set = load_data(settings)
        folder = tmp_path / str(weights[0])
        rows = train_network(build_network(settings, 2), train_set, test_set, settings, folder, progress=False)
        paths.append(str(folder / "checkpoint.pt"))
        _, measures = word_regions.measure(folder / "checkpoint.pt")
        assert measures["whole"] == pytest.approx(rows[-1]["test_accuracy"])
        assert measures["overlap"] == pytest.approx(rows[-1]["test_overlap"], abs=1e-6)
        assert 0.2 < measures["chance"] < 0.6
        assert 0 <= measures["border"] <= 1 - measures["share"] + 1e-6
    assert main(["regions", *paths]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == ["cross-entropy", "cross-entropy + MC-Loss"]


def test_runs_on_other_data_are_refused(tmp_path, capsys):
    assert main(["regions", str(tmp_path / "checkpoint.pt")]) == 1
    assert "error: there is no checkpoint" in capsys.readouterr().err


def test_variants_of_the_border():
    torch.manual_seed(0)
    image = torch.ones(1, 1, 48, 96)
    maps = {name: change(small_extractor(6).eval())(image)[0] for name, change in borders.VARIANTS.items()}
    sides = {name: tuple(each.shape[1:]) for name, each in maps.items()}
    assert sides == {
        **dict.fromkeys(("as it is", "no bias", "replicated padding"), (6, 12)),
        **dict.fromkeys(("border cropped", "valid convolution"), (4, 10)),
        "finer map": (12, 24),
    }
    varies = {name: bool(each.flatten(1).std(1).max() > 1e-4) for name, each in maps.items()}
    assert not varies["replicated padding"]  # padding shows nowhere
    assert varies["as it is"]


def test_every_variant_of_the_border_is_trained_and_measured(tmp_path, capsys):
    options = ["--data", FOLDER, "--seeds", "0", "--epochs", "1", "--batch-size", "20", "--channels-per-class", "2"]
    assert main(["borders", *options, "--folder", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == list(borders.VARIANTS)
    others = ["--dataset", "folder", "--data", str(tmp_path), "--transform", "from_scratch"]
    assert main(["borders", *others, "--folder", str(tmp_path)]) == 1
    assert "error: borders changes the small network on typefaces" in capsys.readouterr().err
