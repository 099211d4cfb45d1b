"""Contents of a checkpoint: the network, its settings, its classes, its predictions and its measures."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from small_run import CLASSES, SETTINGS, untrained_checkpoint, write_images

from reference.__main__ import main
from reference.training import checkpoint
from reference.training.build import build_network, load_data, picture_transform
from reference.training.evaluate import NOT_SUCCESS
from reference.training.trainer import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a trained run, its network and its rows."""
    folder = tmp_path_factory.mktemp("run")
    settings = replace(SETTINGS, data=str(write_images(folder / "images")), batch_size=4, mixed_precision="bf16")
    network = build_network(settings, 3)
    rows = train(network, *load_data(settings), settings, folder, progress=False)
    return folder, network, rows, settings


def images_of(folder):
    """Test images, and the tensor of them all as the network takes it."""
    paths = sorted((folder / "images" / "test").rglob("*.png"))
    transform = picture_transform(SETTINGS, training=False)
    return paths, torch.stack([transform(Image.open(path)) for path in paths])


def test_a_network_comes_back_without_its_data(run):
    folder, trained, _, expected = run
    network, settings, classes = checkpoint.load_network(folder / "checkpoint.pt")
    assert settings == expected
    assert classes == CLASSES[:3]
    assert not network.training
    _, images = images_of(folder)
    with torch.no_grad():
        assert torch.equal(network(images), trained.eval()(images))


def test_predictions_of_a_photograph(run, capsys):
    folder, trained, _, _ = run
    paths, images = images_of(folder)
    assert main(["predict", *map(str, paths), "--checkpoint", str(folder / "checkpoint.pt")]) == 0
    expected = []
    for path, image in zip(paths, images, strict=True):
        with torch.no_grad():
            probabilities = trained.eval()(image[None])[0].softmax(dim=0).tolist()
        order = sorted(range(3), key=lambda index, values=probabilities: -values[index])
        expected += [str(path), *(f"{probabilities[index]:8.1%}  {CLASSES[index]}" for index in order)]
    assert capsys.readouterr().out.splitlines() == expected


def test_validation_prints_what_training_measured(run, capsys):
    folder, _, rows, _ = run
    assert main(["validate", str(folder / "checkpoint.pt"), "--device", "cpu", "--workers", "1"]) == 0
    *lines, empty, note = capsys.readouterr().out.splitlines()
    assert (empty, note) == ("", NOT_SUCCESS)
    printed = dict(line.split() for line in lines)
    assert printed == {name[5:]: f"{value:.4f}" for name, value in rows[-1].items() if name.startswith("test_")}


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["Crow", "Kite"], "the network was trained on; got 2, where class 1 is 'Wren', not 'Kite'."),
        (["Crow"], "got 2, where class 1 is 'Wren', not None."),
    ],
    ids=["other names", "fewer"],
)
def test_other_classes_than_those_trained_on(classes, message, tmp_path, capsys):
    for path in (tmp_path / split / name for split in ("train", "test") for name in ("Crow", "Wren")):
        path.mkdir(parents=True)
        Image.new("RGB", (60, 50)).save(path / "one.png")
    untrained_checkpoint(tmp_path / "other.pt", SETTINGS, classes)
    assert main(["validate", str(tmp_path / "other.pt"), "--data", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err


def test_the_folder_of_a_run_is_no_checkpoint(run, capsys):
    folder, *_ = run
    assert main(["validate", str(folder)]) == 1
    message = f"no checkpoint {folder}, a folder; give {folder / 'best.pt'} or {folder / 'checkpoint.pt'}.\n"
    assert message in capsys.readouterr().err


def test_what_is_no_image(run, tmp_path, capsys):
    folder, *_ = run
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "birds").mkdir()
    for name, message in (
        ("text.jpg", "cannot be read as an image"),
        ("none.jpg", "there is no image"),
        ("birds", "birds is a folder: give the files in it"),
    ):
        assert main(["predict", str(tmp_path / name), "--checkpoint", str(folder / "checkpoint.pt")]) == 1
        assert message in capsys.readouterr().err
