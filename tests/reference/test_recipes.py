"""The recipes: their values as published, their networks, a user's own files, and training by them."""

import csv
import re
from dataclasses import asdict, replace

import pytest
import torch
from small_datasets import SMALL, WRITERS
from torchvision.models import get_model

from reference.__main__ import main
from reference.datasets import DATASETS
from reference.training import build
from reference.training.checkpoint import load
from reference.training.recipes import RECIPES, load_recipe
from reference.training.settings import Settings
from reference.training.trainer import draw_mask

CLASSES = {"cub": 200, "aircraft": 100, "cars": 196, "flowers": 102}

EVERYWHERE = {
    "pooling": "max",
    "convention": "official",
    "epochs": 300,
    "evaluate_every": 1,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 0.0005,
    "threads": 0,
}
FROM_SCRATCH = EVERYWHERE | {
    "transform": "from_scratch",
    "backbone_weights": "",
    "channels_per_class": 3,
    "weights": (1.5, 20.0),
    "drop": "half",
    "batch_size": 32,
    "backbone_factor": 1.0,
    "milestones": (150, 225),
}
PRETRAINED = EVERYWHERE | {
    "transform": "pretrained",
    "backbone_weights": "IMAGENET1K_V1",
    "channels_per_class": 0,
    "weights": (0.0005, 0.0005 * 10),
    "batch_size": 64,
    "backbone_factor": 0.1,
    "milestones": (),
}
PUBLISHED = {
    "vgg16": FROM_SCRATCH | {"backbone": "vgg16_bn"},
    "resnet18": FROM_SCRATCH | {"backbone": "resnet18"},
    "resnet50": PRETRAINED | {"backbone": "resnet50", "drop": 0.4},
    "vgg16-pretrained": PRETRAINED | {"backbone": "vgg16", "drop": "half"},
    "bcnn": PRETRAINED | {"backbone": "bcnn", "drop": "half"},
}

# Runs of classes, as (number of classes, channels of each).
OF_512 = {
    "cub": ((88, 2), (112, 3)),
    "aircraft": ((88, 5), (12, 6)),
    "cars": ((76, 2), (120, 3)),
    "flowers": ((100, 5), (2, 6)),
}
OF_2048 = {
    "cub": ((152, 10), (48, 11)),
    "aircraft": ((52, 20), (48, 21)),
    "cars": ((108, 10), (88, 11)),
    "flowers": ((94, 20), (8, 21)),
}
MASKED_OF_2048 = {"cub": 4 * 200, "aircraft": 8 * 100, "cars": 4 * 196, "flowers": 8 * 102}  # ⌊0.4·ξ⌋ a class


@pytest.mark.parametrize("dataset", CLASSES)
@pytest.mark.parametrize("network", PUBLISHED)
def test_values_are_the_published_ones(network, dataset):
    found = asdict(load_recipe(f"{dataset}-{network}"))
    assert found == asdict(Settings()) | PUBLISHED[network] | {"dataset": dataset}


@pytest.mark.parametrize("dataset", CLASSES)
@pytest.mark.parametrize("network", PUBLISHED)
def test_the_networks_of_all_recipes(network, dataset):
    settings = replace(load_recipe(f"{dataset}-{network}"), backbone_weights="")
    with torch.device("meta"):
        built = build.build_network(settings, CLASSES[dataset])
    size = 224 if settings.transform == "from_scratch" else 448
    features = built.extract(torch.empty(2, 3, size, size, device="meta"))
    assert built.classify(features).shape == (2, CLASSES[dataset])
    if settings.transform == "from_scratch":
        assert built.groups.runs == ((CLASSES[dataset], 3),)
    else:
        assert built.groups.runs == (OF_2048 if network == "resnet50" else OF_512)[dataset]
    side = 28 if network == "bcnn" else 14
    assert features.shape[2:] == (side, side)
    assert (built.loss.convention, built.loss.weights) == ("official", settings.weights)
    if network == "resnet50":
        assert (draw_mask(built, torch.device("cpu")) == 0).sum() == MASKED_OF_2048[dataset]


def test_every_data_set_has_every_recipe():
    assert set(RECIPES) == {
        f"{dataset}-{network}"
        for dataset, source in DATASETS.items()
        for network in PUBLISHED
        if not source.is_installed
    }


# Files of one's own


def write(folder, text, name="mine.toml"):
    path = folder / name
    path.write_text(text)
    return path


def test_a_file_may_build_on_a_recipe_and_on_another_file(tmp_path):
    write(tmp_path, 'extends = "cub-resnet50"\ndataset = "folder"\nepochs = 30\nlearning_rate = 1', "longer.toml")
    path = write(tmp_path, 'description = "quick"\nextends = "longer.toml"\nepochs = 3\nweights = [0, 0]')
    found = load_recipe(path)
    values = {"dataset": "folder", "epochs": 3, "learning_rate": 1.0, "weights": (0.0, 0.0)}
    assert found == replace(load_recipe("cub-resnet50"), **values)
    assert isinstance(found.learning_rate, float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", r"mine\.toml: there is no setting 'epoch'; the nearest is 'epochs'"),
        ("batchsize = 3", "no setting 'batchsize'; the nearest is 'batch_size'"),
        ('epochs = "300"', r"mine\.toml: epochs must be a whole number; got '300'"),
        ("weights = [1]", "weights must be two finite numbers"),
        ("epochs = 0", r"mine\.toml: epochs must be at least 1; got 0"),
        ("batch_size = 32\naccumulation = 3", "accumulation must be a divisor of batch_size, 32"),
        ("epochs = ", "mine.toml must be TOML: "),
        ("extends = 3", "extends must be the name of a recipe or of a file; got 3"),
        ('extends = "mine.toml"', "mine.toml extends itself"),
        ('extends = "cub-resnet51"', "no recipe 'cub-resnet51'; the nearest are cub-resnet50, "),
    ],
)
def test_what_is_wrong_with_a_file_is_said(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_recipe(write(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no recipe .*mine\.toml"):
        load_recipe(tmp_path / "mine.toml")


# The command line


def test_recipes_are_listed(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(RECIPES)
    (line,) = [line for line in lines if line.startswith("cub-resnet50 ")]
    assert "CUB-200-2011: ResNet50 with weights of ImageNet" in line


@pytest.fixture
def cub(monkeypatch, tmp_path):
    """A folder with 4 birds of 3 classes to train on and 3 to test, as their authors would ship them."""
    monkeypatch.setitem(DATASETS, "cub", replace(DATASETS["cub"], sizes=SMALL["cub"]))
    WRITERS["cub"](tmp_path / "data")
    return tmp_path / "data"


def weights_file(folder, name):
    torch.manual_seed(5)
    torch.save(get_model(name).state_dict(), folder / "weights.pt")
    return ["--backbone", name, "--backbone-weights", str(folder / "weights.pt")]


@pytest.mark.parametrize("recipe", ["cub-resnet18", "cub-resnet50"])
def test_from_the_recipe_to_a_prediction(recipe, cub, tmp_path, capsys):
    folder = tmp_path / "run"
    smaller = weights_file(tmp_path, "resnet18") if recipe == "cub-resnet50" else []
    options = ["--recipe", recipe, "--data", str(cub), "--folder", str(folder), "--epochs", "1", "--batch-size", "2"]
    # At the published rate two images a step diverge, and a loss of millions has not the decimals that are compared.
    options += ["--learning-rate", "0.001", "--weight-decay", "0.25", "--threads", "1", "--device", "cpu"]
    assert main(["train", *options, *smaller]) == 0
    bar = capsys.readouterr().err
    assert re.search(
        r"4/4 .*(images/s|s/ images), loss \S+, test accuracy \d", bar
    )  # the rate; the latter where it is below 1
    (tmp_path / "weights.pt").unlink(missing_ok=True)  # all that is needed is in the checkpoint
    settings = load(folder / "checkpoint.pt").settings
    assert (settings.epochs, settings.weight_decay) == (1, 0.25)
    assert settings.weights == load_recipe(recipe).weights
    with open(folder / "metrics.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["step"] == "2"

    moved = cub.rename(tmp_path / "moved")
    arguments = [str(folder / "checkpoint.pt"), "--device", "cpu"]
    assert main(["validate", *arguments]) == 1
    assert str(cub) in capsys.readouterr().err
    assert main(["validate", *arguments, "--data", str(moved)]) == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines()[:6])
    expected = {name[5:]: f"{float(value):.4f}" for name, value in row.items() if name.startswith("test_")}
    assert printed == expected

    assert main(["resume", str(folder), "--data", str(moved), "--device", "cpu"]) == 0  # has nothing left to do
    assert f"test accuracy {float(row['test_accuracy']):.1%}" in capsys.readouterr().out

    image = next((moved / "CUB_200_2011" / "images").rglob("*.jpg"))
    assert main(["predict", str(image), "--checkpoint", str(folder / "best.pt")]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == str(image)
    percent = {name: float(number.rstrip("%")) for number, name in (line.split(maxsplit=1) for line in lines)}
    assert set(percent) == {"001.Auk", "002.Great Tit", "003.Wren"}
    assert sum(percent.values()) == pytest.approx(100, abs=0.2)
    assert list(percent.values()) == sorted(percent.values(), reverse=True)
