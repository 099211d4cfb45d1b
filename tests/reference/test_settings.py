"""Settings: their ranges and types, in code, in files and on the command line."""

from dataclasses import replace

import pytest
from small_run import SETTINGS, small_network

from reference.commands import parse
from reference.training.settings import Settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("channels_per_class", 0),
        ("weights", (-1, 3)),
        ("weights", (1, float("nan"))),
        ("epochs", 0),
        ("evaluate_every", 0),
        ("label_smoothing", 1.0),
        ("auxiliary", 1.0),  # beside MC-Loss
        ("pooling", "sum"),
        ("batch_size", 1),
        ("learning_rate", 0.0),
        ("momentum", 1.0),
        ("weight_decay", -0.1),
        ("milestones", (5, 3)),
        ("threads", -1),
        ("dataset", "birds"),
        ("drop", [1, 2]),
        ("backbone_weights", "DEFAULT"),  # for the small network
        ("transform", "none"),
        ("convention", "mine"),
        ("mixed_precision", "float16"),
        ("drop", "third"),
        ("drop", -1),
        ("drop", 1.0),
        ("accumulation", 3),  # of 10 images
        ("accumulation", 10),
        ("backbone_factor", -0.1),
        ("seed", -1),
    ],
)
def test_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be .*; got "):
        replace(SETTINGS, **{name: value})


@pytest.mark.parametrize(
    ("backbone", "weights"), [("resnet50", ""), ("bcnn", ""), ("resnet18", "DEFAULT"), ("vgg16_bn", "weights.pt")]
)
def test_only_two_networks_from_scratch_can_be_widened(backbone, weights):
    others = {
        **{"dataset": "cub", "transform": "from_scratch", "backbone": backbone},
        **{"backbone_weights": weights, "pooling": "max"},
    }
    with pytest.raises(ValueError, match=f"must be 0, which divides the channels of {backbone} .*; got 3"):
        Settings(**others, channels_per_class=3)
    Settings(**others, channels_per_class=0)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("epochs", "3", "a whole number"),
        ("epochs", 3.0, "a whole number"),
        ("epochs", True, "a whole number"),
        ("learning_rate", "0.1", "a number"),
        ("weights", 3, "a list of numbers"),
        ("weights", ["1", 2], "a number"),
        ("milestones", [1.5], "a whole number"),
        ("channels_last", 1, "true or false"),
        ("backbone", 50, "a text"),
    ],
)
def test_settings_of_another_type(name, value, expected):
    with pytest.raises(TypeError, match=f"^{name} must be {expected}; got "):
        Settings(**{name: value})


def test_numbers_are_kept_in_one_type():
    settings = Settings(learning_rate=1, weights=[1, 2], milestones=[3])
    assert repr((settings.learning_rate, settings.weights, settings.milestones)) == "(1.0, (1.0, 2.0), (3,))"


@pytest.mark.parametrize(("text", "drop"), [("half", "half"), ("2", 2), ("0.4", 0.4)])
def test_drop_on_the_command_line(text, drop):
    parsed = parse("train", ["--dataset", "folder", "--data", "DIR", "--drop", text])
    assert repr(parsed.settings.drop) == repr(drop)
    assert small_network(replace(SETTINGS, channels_per_class=5, drop=drop)).loss.drop == drop


def test_the_convention_is_that_of_the_loss():
    loss = small_network(replace(SETTINGS, convention="paper", weights=(0.005, 10))).loss
    assert (loss.convention, loss.weights) == ("paper", (0.005, 10))
