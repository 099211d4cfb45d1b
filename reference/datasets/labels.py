"""The authors count classes from 1, PyTorch from 0."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def class_indices(labels: Sequence[float], num_classes: int, file: Path) -> list[int]:
    """Labels from 1 to C -> class indices from 0 to C − 1.

    Args:
        labels: whole numbers, in Python's types: NumPy's unsigned ones would wrap around at 0.
        num_classes: C.
        file: the labels' file, for the message.
    """
    for position, label in enumerate(labels, start=1):
        if label not in range(1, num_classes + 1):
            raise ValueError(f"{file}: label {position} must be a whole number from 1 to {num_classes}; got {label}.")
    return [int(label) - 1 for label in labels]
