"""Checkpoints: a dictionary on disk that is always whole, and the network in it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..model.network import MCNetwork
from .build import build_network
from .settings import Settings


def save(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` so that at every moment, also in a power cut, ``path`` is the old file or the new one."""
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with open(unfinished, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)  # there only where writing failed, as on a full disk


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote, tensors on the CPU; runs no code from the file."""
    if not path.is_file():
        inside = " or ".join(str(file) for file in sorted(path.glob("*.pt")))
        raise FileNotFoundError(f"there is no checkpoint {path}" + (f", a folder; give {inside}." if inside else "."))
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # for a broken file PyTorch raises nearly every kind
        raise ValueError(f"{path} cannot be read as a checkpoint: it is broken or another kind of file.") from error
    return state


def settings_in(state: dict[str, Any], path: Path) -> Settings:
    """The settings of the run that wrote a checkpoint; ValueError where this version has others."""
    try:
        return Settings(**state["settings"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} must be a checkpoint of reference train, with settings that this version has: {error}."
        ) from error


def load_network(path: Path) -> tuple[MCNetwork, Settings, list[str]]:
    """The network of a checkpoint in evaluation mode, the settings of its run, and the names of its classes.

    Needs neither the data nor pretrained weights.
    """
    state = load(path)
    if not isinstance(state, dict) or not {"settings", "classes", "network"} <= state.keys():
        raise ValueError(f"{path} must be a checkpoint of reference train, with settings, classes and network.")
    settings, classes = settings_in(state, path), state["classes"]
    network = build_network(replace(settings, backbone_weights=""), len(classes))
    network.load_state_dict(state["network"])
    return network.eval(), settings, classes
