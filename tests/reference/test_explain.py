"""Pictures and numbers of where channels look, for networks whose channels are known."""

from dataclasses import replace
from math import exp

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from small_run import SETTINGS, untrained_checkpoint
from torch import nn
from torch.nn.functional import avg_pool2d
from torchvision.transforms import v2

from mcl_triton import ChannelGroups
from reference.__main__ import main
from reference.channels.explanation import explain_image, scaled_maps
from reference.datasets.transforms import from_scratch
from reference.figures import explain
from reference.figures.explain import Viewer
from reference.figures.explanation_figure import explanation_figure
from reference.figures.theme import LIGHT
from reference.model.network import MCNetwork, global_max_pooling

CLASSES = ["001.Red_Kite", "002.Green_Finch"]


class Colours(nn.Module):
    """(B, 3, H, W) -> (B, 5, H/4, W/4): red and red for a class; left and right of green, and blue, for another."""

    def forward(self, images):
        red, green, blue = avg_pool2d((images + 1) / 2, 4).unbind(dim=1)
        middle = green.shape[2] // 2
        left, right = green.clone(), green.clone()
        left[..., middle:] = 0
        right[..., :middle] = 0
        return torch.stack([red, red, left, right, blue], dim=1)


def make_viewer(name: str = "colours", *, swapped: bool = False) -> Viewer:
    """A network that predicts the brighter of red and green; the other one, if they are swapped."""
    head = nn.Linear(5, 2)
    rows = [[1.0, 0, 0, 0, 0], [0, 0, 0.5, 0.5, 0]]
    head.weight.data = torch.tensor(rows[::-1] if swapped else rows)
    head.bias.data.zero_()
    network = MCNetwork(Colours(), ChannelGroups([2, 3]), pooling=global_max_pooling(), head=head)
    transform = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)])
    return Viewer(name, network, transform, CLASSES)


def make_picture() -> Image.Image:
    """48×32 pixels: a red square, and half as bright a green line all across."""
    pixels = np.zeros((32, 48, 3), dtype=np.uint8)
    pixels[0:8, 8:16, 0] = 255
    pixels[16:20, :, 1] = 128
    return Image.fromarray(pixels)


def of_picture(true_class: str | None, swapped: bool = False):
    viewer = make_viewer(swapped=swapped)
    return explain_image(viewer.network, viewer.transform(make_picture()), CLASSES, true_class)


@pytest.mark.parametrize(
    ("true_class", "swapped", "expected"),
    [
        (None, False, [("001.Red_Kite", "predicted")]),
        (None, True, [("002.Green_Finch", "predicted")]),
        ("001.Red_Kite", False, [("001.Red_Kite", "true and predicted")]),
        ("002.Green_Finch", False, [("002.Green_Finch", "true"), ("001.Red_Kite", "predicted")]),
        ("001.Red_Kite", True, [("001.Red_Kite", "true"), ("002.Green_Finch", "predicted")]),
    ],
)
def test_the_true_class_and_a_wrong_prediction(true_class, swapped, expected):
    assert [(view.class_name, view.role) for view in of_picture(true_class, swapped)] == expected


def test_what_is_measured():
    green, red = of_picture("002.Green_Finch")
    half = 128 / 255
    assert red.probability == pytest.approx(1 / (1 + exp(half - 1)))
    assert green.probability == pytest.approx(1 - red.probability)
    assert red.overlap == 1
    assert green.overlap == 0  # blue, which is nowhere, does not count
    assert red.diversity == pytest.approx(1)
    # By hand: 96 places, of which each half of the line has 6.
    line, others = exp(half), 1.0
    total = 6 * line + 90 * others
    assert green.diversity == pytest.approx(12 * line / total + 84 / 96)


def test_maps_are_those_of_the_class_and_their_maximum():
    green, red = of_picture("002.Green_Finch")
    assert red.maps.shape == (3, 32, 48)  # the larger group of the other class leaves nothing behind
    assert green.maps.shape == (4, 32, 48)
    assert torch.equal(red.maps[0], red.maps[2])
    left, right, blue, maximum = green.maps
    assert blue.max() == 0
    assert maximum[18].tolist() == pytest.approx([1] * 48)  # however dark the line is
    assert maximum[:10].max() == 0
    assert left[18, :20].min() > 0.8
    assert left[18, 28:].max() == 0
    assert right[18, :20].max() == 0


def test_maps_of_an_image_share_one_scale_and_show_nothing_negative():
    features = torch.tensor([[8.0, -8], [2, 0], [-1, -3]]).view(1, 3, 1, 2)
    maps = scaled_maps(features, ChannelGroups([3]), torch.tensor([0]), (1, 2))
    assert maps[0, :, 0].tolist() == [[1, 0], [0.25, 0], [0, 0], [1, 0]]  # the last is their maximum


def test_the_box_is_around_the_maximum():
    green, red = of_picture("002.Green_Finch")
    # The square ends at 8; its map falls to 20 % within four fifths of the four pixels between two centres.
    left, top, width, height = red.box
    assert (top, height) == (0, 9)
    assert (left, left + width) == (7, 17)
    assert (green.box[0], green.box[2]) == (0, 48)
    assert 12 < green.box[1] < 16


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "kite.png"
    make_picture().save(path)
    return path


def test_a_file_for_each_image(image, tmp_path, capsys):
    other = tmp_path / "finch.bmp"
    make_picture().transpose(Image.Transpose.ROTATE_90).save(other)
    paths = explain.explain([image, other], [make_viewer()], tmp_path / "new" / "folder")
    assert paths == [tmp_path / "new" / "folder" / name for name in ("kite-channels.png", "finch-channels.png")]
    assert sorted((tmp_path / "new" / "folder").iterdir()) == sorted(paths)
    printed = capsys.readouterr().out.splitlines()
    half = 128 / 255  # of the line; in one of the halves of the rotated picture it is not
    first, second = (
        f"  colours: 001.Red_Kite (predicted): probability {1 / (1 + exp(green - 1)):.1%}, overlap 1.00, h = 1.0 of 2"
        for green in (half, half / 2)
    )
    assert printed == [str(paths[0]), first, str(paths[1]), second]
    wide, high = (np.asarray(Image.open(path).convert("RGB")) for path in paths)
    assert high.shape[0] > wide.shape[0]  # as the photographs are


def test_pictures_are_drawn(image, tmp_path):
    viewers = [make_viewer("long " * 40), make_viewer(r"$\no formula$", swapped=True)]
    (path,) = explain.explain([image], viewers, tmp_path / "drawn", "002.Green_Finch")
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
    assert (pixels.min(axis=2) < 250).mean() > 0.05  # not just paper
    edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    assert all((edge == 255).all() for edge in edges), "something is cut off"


def figure_of(*viewers: Viewer, true_class: str | None = None) -> Figure:
    panels = [explain.show(viewer, make_picture(), true_class) for viewer in viewers]
    return explanation_figure(panels, "kite.png", LIGHT)


def test_each_class_of_each_network_has_its_pictures_below_its_name():
    figure = figure_of(make_viewer("one"), make_viewer("two", swapped=True), true_class="002.Green_Finch")
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert "kite.png" in texts
    assert [text.split("\n")[:2] for text in texts if "probability" in text] == [
        ["one", "002.Green_Finch (true)"],
        ["one", "001.Red_Kite (predicted)"],
        ["two", "002.Green_Finch (true and predicted)"],
    ]
    of_green, of_red = ([f"channel {number}" for number in range(1, size + 1)] for size in (3, 2))
    names = [axis.get_title() for axis in figure.axes if axis.images]
    assert names == [name for own in (of_green, of_red, of_green) for name in ("image", *own, "maximum")]


def test_overlays_are_bright_where_the_channel_is_active():
    figure = figure_of(make_viewer(), true_class="002.Green_Finch")
    photo, left, right, blue, maximum = (np.asarray(axis.images[0].get_array()) for axis in figure.axes[:5])
    assert photo.shape == left.shape == (32, 48, 3)
    assert photo[4, 12].tolist() == [1, 0, 0]
    line = slice(17, 19)
    assert left[line, :18].min() > right[line, :18].max()
    assert right[line, 30:].min() > left[line, 30:].max()
    assert np.array_equal(maximum[line, :18], left[line, :18])
    # Nothing but the photograph in grey, less bright: the square is a third of white.
    assert np.ptp(blue, axis=2).max() < 0.01
    assert blue[4, 12, 0] == pytest.approx(0.65 / 3, abs=0.01)


def test_the_box_is_drawn_over_the_maximum():
    figure = figure_of(make_viewer())
    assert [len(axis.patches) for axis in figure.axes[:4]] == [0, 0, 0, 1]
    (box,) = figure.axes[3].patches
    assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (6.5, -0.5, 10, 9)


def test_many_channels_go_on_in_the_next_line():
    viewer = make_viewer()
    network = MCNetwork(nn.Conv2d(3, 13, 4, 4), ChannelGroups([13]))
    figure = figure_of(Viewer("many", network, viewer.transform, ["bird"]))
    assert [axis.get_title() for axis in figure.axes[9:]] == [f"channel {n}" for n in range(9, 14)] + ["maximum"]
    assert figure.axes[0].get_gridspec().get_geometry() == (3, 5)


def test_what_the_network_sees_is_shown():
    """Not the whole picture, nor in the pipeline's units."""
    generator = np.random.default_rng(0)
    picture = Image.fromarray(generator.integers(0, 256, (300, 200, 3), dtype=np.uint8))
    viewer = Viewer("cropped", make_viewer().network, from_scratch(training=False), CLASSES)
    photo = explain.show(viewer, picture, None).photo
    expected = np.asarray(picture.resize((224, 224), Image.Resampling.BILINEAR)).transpose(2, 0, 1) / 255
    assert photo.shape == (3, 224, 224)
    assert np.abs(photo.numpy() - expected).max() < 1e-5


@pytest.fixture
def checkpoints(tmp_path):
    """Of networks with and without MC-Loss."""
    paths = []
    for name, weights in (("with", (0.5, 3.0)), ("without", (0.0, 0.0))):
        paths.append(tmp_path / name / "checkpoint.pt")
        paths[-1].parent.mkdir()
        untrained_checkpoint(paths[-1], replace(SETTINGS, weights=weights))
    return paths


def test_from_the_command_line(checkpoints, image, tmp_path, capsys):
    first, second = map(str, checkpoints)
    arguments = [str(image), "--checkpoint", first, "--compare", second, "--class", "bird 7", "--output", str(tmp_path)]
    assert main(["explain", *arguments]) == 0
    path, *lines = capsys.readouterr().out.splitlines()
    assert path == str(tmp_path / "kite-channels.png")
    assert Image.open(path).size[0] > 500
    assert lines[0].startswith("  cross-entropy + MC-Loss (with/checkpoint.pt): bird 7 (true")
    assert any(line.startswith("  cross-entropy (without/checkpoint.pt): bird 7 (true") for line in lines[1:])


def test_no_such_class(checkpoints, image, capsys):
    assert main(["explain", str(image), "--checkpoint", str(checkpoints[0]), "--class", "Bird 7"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: there is no class 'Bird 7' among the network's 10; the nearest are bird 7, ")


def test_a_folder_that_cannot_be_made(checkpoints, image, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["explain", str(image), "--checkpoint", str(checkpoints[0]), "--output", str(tmp_path / "file")]) == 1
    assert f"File exists: '{tmp_path / 'file'}'" in capsys.readouterr().err


def test_two_images_of_one_name(image, tmp_path):
    other = tmp_path / "other" / "kite.jpg"
    with pytest.raises(ValueError, match=f"{image} and {other} would both be drawn to .*kite-channels.png"):
        explain.explain([image, other], [make_viewer()], tmp_path)


def test_networks_of_other_classes(image, tmp_path):
    other = make_viewer("other")
    renamed = Viewer("renamed", other.network, other.transform, ["kite", "finch"])
    with pytest.raises(
        ValueError, match=r"same classes; other has 2 \(001.Red_Kite, 002.Green_Finch\) and renamed 2 \(k"
    ):
        explain.explain([image], [other, renamed], tmp_path)
