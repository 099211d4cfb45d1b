"""`python -m bench recipes`: data of every format that is really read, and steps that are really taken."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from bench import __main__ as bench
from bench.measure import recipes
from reference.training.trainer import Run

CLASSES = {"cub": 200, "cub-boxes": 200, "aircraft": 100, "flowers": 102, "cars": 196, "folder": 4}


class StepTakenError(Exception):
    pass


@pytest.mark.parametrize("name", CLASSES)
def test_every_format_is_read_through_the_loader(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the first step, which has a batch of images of the right size and classes that are there."""

    def stop(run: Run, batch: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        ((images, targets),) = batch
        assert images.shape == (2, 3, 224, 224)
        assert images.std() > 0.1  # noise
        assert ((targets >= 0) & (targets < CLASSES[name])).all()
        assert run.network.groups.sizes == (3,) * CLASSES[name]
        raise StepTakenError

    monkeypatch.setattr(Run, "train_step", stop)
    recipes.write_data(name, tmp_path, 4)
    with pytest.raises(StepTakenError):
        recipes.measure(f"{name}-resnet18", str(tmp_path), 2, 2)


def test_a_recipe_is_trained_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = []
    step = Run.train_step

    def watched(run: Run, batch: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        before = [parameter.detach().clone() for parameter in run.network.parameters()]
        step(run, batch)
        after = run.network.parameters()
        changed.append(all(not torch.equal(*pair) for pair in zip(before, after, strict=True)))

    monkeypatch.setattr(Run, "train_step", watched)
    recipes.write_data("aircraft", tmp_path, 6)
    cost = recipes.measure("aircraft-resnet18", str(tmp_path), 2, 3)
    assert changed == [True] * 3
    assert (cost.recipe, cost.classes, cost.side, len(cost.seconds)) == ("aircraft-resnet18", 100, 224, 3)
    # ResNet18 has 2,782,784 parameters up to its last stage; that one's are four convolutions and a shorter way with
    # batch norm, here to 300 channels.
    last_stage = 9 * 300 * (256 + 3 * 300) + 256 * 300 + 5 * 2 * 300
    head = 2 * 300 + (300 + 1) * 512 + 2 * 512 + (512 + 1) * 100
    assert cost.parameters == 2_782_784 + last_stage + head
    assert min(cost.seconds) > 0


def test_the_peak_is_that_of_this_process() -> None:
    before = recipes.peak_resident()
    taken = torch.ones(before // 4 + 2**26)  # more than there ever was, and 256 MiB
    assert recipes.peak_resident() >= before + 2**28 - 2**20
    assert recipes.peak_resident() >= taken.nbytes
    high = recipes.peak_resident()
    del taken
    assert recipes.peak_resident() >= high - 2**20  # the kernel counts in steps


def test_a_line_has_the_first_step_apart() -> None:
    cost = recipes.Cost("cub-bcnn", 200, 448, 67_123_456, (9.0, 2.0, 3.0), 3 * 2**29)
    assert recipes.line(cost) == "| cub-bcnn | 200 | 448² | 67.1 | 9.0 | 2.5 | 1.5 |"


def test_the_command_prints_a_table_with_a_line_for_each_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["recipes", "folder-resnet18", "--batch-size", "2", "--steps", "2"]) == 0
    on, _, *table = capsys.readouterr().out.splitlines()
    assert on.endswith("2 images per step, 2 steps")
    heading, rule, line = table
    assert heading.count("|") == rule.count("|") == line.count("|")
    assert re.fullmatch(r"\| folder-resnet18 \| 4 \| 224² \| 2\.8 \| \d+\.\d \| \d+\.\d \| \d\.\d \|", line)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cub-resnet51"], "there is no recipe 'cub-resnet51'"),
        (["--batch-size", "1"], "--batch-size must be at least 2"),
        (["--steps", "1"], "--steps too"),
    ],
)
def test_bad_options(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["recipes", *arguments]) == 1
    assert message in capsys.readouterr().out
