"""Checkpoints: a dictionary on disk that is always whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


def save(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` so that at every moment, also in a power cut, ``path`` is the old file or the new one."""
    unfinished = path.with_suffix(".tmp")
    with open(unfinished, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote, tensors on the CPU; runs no code from the file."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}.")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
