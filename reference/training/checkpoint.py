"""Checkpoints: what a run saves, checked when it is read, and the network in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..model.network import MCNetwork
from .build import build_network
from .evaluate import MEASURES
from .run_folder import write_whole
from .settings import Settings, differences

Row = dict[str, float]
"""The measures after an evaluation, by the names of the CSV file's columns.

``seconds`` are those of the steps and of the evaluation, without waiting for training images.
"""

COLUMNS = ("epoch", "step", "train_loss", "train_accuracy", *(f"test_{name}" for name in MEASURES), "seconds")
TOTALS = ("images", "loss", "correct", "seconds")


@dataclass(frozen=True)
class Checkpoint:
    """A run between two steps.

    Attributes:
        settings: of the run.
        num_images: of the training set.
        classes: their names.
        step: steps done.
        rows: one per evaluation.
        totals: sums over the images since the last one, by the names of ``TOTALS``; empty where there are none.
        network, optimizer, scaler: their state_dict.
    """

    settings: Settings
    num_images: int
    classes: list[str]
    step: int
    rows: list[Row]
    totals: Row
    network: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; at every moment ``path`` is the old file or the new one."""
    state = {each.name: getattr(checkpoint, each.name) for each in fields(checkpoint)}
    write_whole(path, lambda file: torch.save({**state, "settings": asdict(checkpoint.settings)}, file))


def load(path: Path) -> Checkpoint:
    """Read what `save` wrote, tensors on the CPU; runs no code from the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint, or one of another version.
    """
    if not path.is_file():
        inside = " or ".join(str(file) for file in sorted(path.glob("*.pt")))
        raise FileNotFoundError(f"there is no checkpoint {path}" + (f", a folder; give {inside}." if inside else "."))
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # for a broken file PyTorch raises nearly every kind
        raise ValueError(f"{path} cannot be read as a checkpoint: it is broken or another kind of file.") from error
    try:
        if state.keys() != {each.name for each in fields(Checkpoint)}:
            raise ValueError(f"it must have {', '.join(each.name for each in fields(Checkpoint))}")
        if unlike := [row for row in state["rows"] if tuple(row) != COLUMNS]:
            raise ValueError(f"its rows must have {', '.join(COLUMNS)}; got {', '.join(unlike[0])}")
        checkpoint = Checkpoint(**{**state, "settings": Settings(**state["settings"])})
        _require_plausible(checkpoint)
        return checkpoint
    except (AttributeError, TypeError, ValueError) as error:
        message = str(error).removesuffix(".")
        raise ValueError(f"{path} must be a checkpoint of this version of reference train: {message}.") from error


def _require_plausible(checkpoint: Checkpoint) -> None:
    """Raise ValueError where numbers and names, which no state_dict checks, are none of a run."""
    classes, num_images, step = checkpoint.classes, checkpoint.num_images, checkpoint.step
    if not (isinstance(classes, (list, tuple)) and classes and all(isinstance(name, str) for name in classes)):
        raise ValueError(f"its classes must be a list of names; got {classes!r}")
    if type(num_images) is not int:
        raise ValueError(f"its num_images must be a whole number; got {num_images!r}")
    last = checkpoint.settings.epochs * (num_images // checkpoint.settings.batch_size)
    if type(step) is not int or not 0 <= step <= last:
        raise ValueError(f"its step must be a whole number from 0 to {last}; got {step!r}")


def load_same_run(path: Path, settings: Settings, num_images: int, classes: Sequence[str]) -> Checkpoint:
    """A checkpoint of a run with these settings and training images; ValueError where it is of another run."""
    checkpoint = load(path)
    if changed := differences(checkpoint.settings, settings):
        raise ValueError(f"{path} and this run must have the same settings; they differ: {', '.join(changed)}.")
    was = checkpoint.num_images
    changed = [] if was == num_images else [f"{was} to train on, now {num_images}"]
    pairs = enumerate(zip_longest(checkpoint.classes, classes), start=1)
    changed += [f"class {place} {was!r}, now {now!r}" for place, (was, now) in pairs if was != now]
    if changed:
        raise ValueError(
            f"{path} is of a run on other images, which had {changed[0]}. Resume a run with the images that it had, "
            "wherever they are now."
        )
    return checkpoint


def load_network(path: Path) -> tuple[MCNetwork, Settings, list[str]]:
    """The network of a checkpoint in evaluation mode, the settings of its run, and the names of its classes.

    Needs neither the data nor pretrained weights.
    """
    checkpoint = load(path)
    network = build_network(replace(checkpoint.settings, backbone_weights=""), len(checkpoint.classes))
    restore(path, network=(network, checkpoint.network))
    return network.eval(), checkpoint.settings, checkpoint.classes


def restore(path: Path, **parts: tuple[Any, dict[str, Any]]) -> None:
    """Load a state_dict into each object that belongs to it; ValueError where it does not fit.

    Args:
        path: of the checkpoint, for the message.
        parts: by the name in the checkpoint, the object and its state_dict.
    """
    for name, (part, state) in parts.items():
        try:
            part.load_state_dict(state)
        except Exception as error:  # for a wrong state_dict PyTorch raises nearly every kind
            problem = " ".join(str(error).split())[:300] or type(error).__name__
            raise ValueError(f"{path}: its {name} does not fit its settings and classes: {problem}") from error
