"""What a checkpoint gives back: the network, its settings, its classes, its predictions and its measures."""

import re
from dataclasses import replace
from io import BytesIO

import pytest
import torch
from PIL import Image

from reference.datasets import faces
from reference.training import checkpoint, predict, train, validate
from reference.training.build import load_data
from reference.training.settings import Settings

SETTINGS = Settings(training_photos=8, epochs=2, batch_size=20, channels_per_class=2, mixed_precision="bf16")

_file = BytesIO()
torch.save({"weight": torch.ones(5000)}, _file)
SERIALIZED = _file.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a trained run, its network and its rows."""
    folder = tmp_path_factory.mktemp("run")
    network = train.build_network(SETTINGS)
    rows = train.train(network, *load_data(SETTINGS), SETTINGS, folder, progress=False)
    return folder, network, rows


def test_a_network_comes_back_without_its_data(run):
    folder, trained, _ = run
    network, settings, classes = checkpoint.load_network(folder / "checkpoint.pt")
    assert settings == SETTINGS
    assert classes == [f"s{person}" for person in range(1, 41)]
    assert not network.training
    images = faces.load_photos()[::7, 0]
    with torch.no_grad():
        assert torch.equal(network(images), trained.eval()(images))


def test_predictions_of_a_photograph(run, capsys):
    folder, trained, _ = run
    paths = [faces.folder() / f"s{person}" / "4.pgm" for person in (3, 17)]
    assert predict.main([*map(str, paths), "--checkpoint", str(folder / "checkpoint.pt")]) == 0
    with torch.no_grad():
        probabilities = trained.eval()(faces.load_photos()[[2, 16], 3]).softmax(dim=1)
    expected = []
    for path, of_image in zip(paths, probabilities.tolist(), strict=True):
        order = sorted(range(40), key=lambda index, of_image=of_image: -of_image[index])
        expected += [str(path), *(f"{of_image[index]:8.1%}  s{index + 1}" for index in order[:5])]
    assert capsys.readouterr().out.splitlines() == expected


def test_validation_prints_what_training_measured(run, capsys):
    folder, _, rows = run
    assert validate.main([str(folder / "checkpoint.pt"), "--device", "cpu", "--workers", "1"]) == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert printed == {name[5:]: f"{value:.4f}" for name, value in rows[-1].items() if name.startswith("test_")}


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["Crow", "Kite"], "the network was trained on; got 2, where class 1 is 'Wren', not 'Kite'."),
        (["Crow"], "got 2, where class 1 is 'Wren', not None."),
    ],
    ids=["other names", "fewer"],
)
def test_other_classes_than_those_trained_on(classes, message, run, tmp_path, capsys):
    folder, _, _ = run
    for path in (tmp_path / split / name for split in ("train", "test") for name in ("Crow", "Wren")):
        path.mkdir(parents=True)
        Image.new("RGB", (60, 50)).save(path / "one.png")
    state = checkpoint.load(folder / "checkpoint.pt")
    network = train.build_network(replace(SETTINGS, dataset="folder"), len(classes)).state_dict()
    settings = state["settings"] | {"dataset": "folder"}
    checkpoint.save(tmp_path / "other.pt", state | {"settings": settings, "classes": classes, "network": network})
    assert validate.main([str(tmp_path / "other.pt"), "--data", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no checkpoint"),
        (b"no checkpoint", "cannot be read as a checkpoint"),
        (SERIALIZED[: len(SERIALIZED) // 2], "cannot be read as a checkpoint"),
        ({"weight": torch.ones(2)}, "must be a checkpoint of reference train"),
        (torch.ones(2), "must be a checkpoint of reference train"),
        ({"settings": {"gone": 1}, "classes": ["s1"], "network": {}}, "settings that this version has: .*'gone'"),
    ],
    ids=["missing", "broken", "cut short", "state_dict", "tensor", "of another version"],
)
def test_what_is_no_checkpoint(content, message, tmp_path, capsys):
    path = tmp_path / "some.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    assert validate.main([str(path)]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert predict.main(["some.jpg", "--checkpoint", str(path)]) == 1
    assert re.search(message, capsys.readouterr().err)


def test_the_folder_of_a_run_is_no_checkpoint(run, capsys):
    folder, _, _ = run
    assert validate.main([str(folder)]) == 1
    message = f"no checkpoint {folder}, a folder; give {folder / 'best.pt'} or {folder / 'checkpoint.pt'}.\n"
    assert message in capsys.readouterr().err


def test_what_is_no_image(run, tmp_path, capsys):
    folder, _, _ = run
    (tmp_path / "text.jpg").write_text("no image")
    for name, message in (("text.jpg", "cannot be read as an image"), ("none.jpg", "there is no image")):
        assert predict.main([str(tmp_path / name), "--checkpoint", str(folder / "checkpoint.pt")]) == 1
        assert message in capsys.readouterr().err
