"""MATLAB's files, and their labels, which count from 1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def read_mat(path: Path, name: str) -> np.ndarray[Any, Any]:
    """The variable ``name``, flattened: (n,) numbers, cells or structs.

    A cell, and a field of a struct, is itself an array, (1, 1) for a number and (1,) for a string; its ``item()`` is
    Python's own number or string.
    """
    from scipy.io import loadmat  # here, as it takes a while and the command line reads this module

    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing.")
    try:
        variables = loadmat(path)
    except Exception as error:  # for a broken file scipy raises nearly every kind
        raise ValueError(
            f"{path} cannot be read as a MATLAB file: {error}. Download it again: it is incomplete, or a web page was "
            "saved in its place."
        ) from error
    if name not in variables:
        there = sorted(variable for variable in variables if not variable.startswith("__"))
        raise ValueError(f"{path} must have the variable {name!r}; it has {', '.join(there) or 'none'}.")
    return np.ravel(variables[name])


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
