"""Labelled image files as a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Transform = Callable[[Any], Any]
"""Transform of an image before it is returned."""


class Labelled:
    """Images with their class index, ``image, target = dataset[i]``, as PyTorch's data loaders take them.

    Attributes:
        classes: the names of the classes.
        targets: the class index of each image, from 0.
        transform: of each image.
    """

    classes: list[str]
    targets: list[int]
    transform: Transform | None

    def __getitem__(self, index: int) -> tuple[Any, int]:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.targets)


def examples(dataset: Labelled, number: int) -> list[int]:
    """The first image of some classes that have any, evenly spaced among all."""
    classes = sorted(set(dataset.targets))
    step = max(1, len(classes) // number)
    return [dataset.targets.index(label) for label in classes[step // 2 :: step][:number]]


class UnreadableError(ValueError):
    """An image file cannot be read."""

    def __init__(self, message: str) -> None:
        # A worker of PyTorch's DataLoader sends a whole traceback, at whose end the message is.
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


def in_rgb(picture: Image.Image) -> Image.Image:
    """A picture in RGB of 8 bits; grey ones get three equal channels, and keep the upper 8 bits of 16."""
    if picture.mode.startswith(("I", "F")):  # Pillow would make all that is above 255 white
        numbers = np.asarray(picture)
        if numbers.dtype.kind == "f" or numbers.min() < 0 or numbers.max() > 0xFFFF:
            raise ValueError(f"it must have 8 or 16 bits a channel; got mode {picture.mode}")
        picture = Image.fromarray((numbers >> 8).astype(np.uint8))
    return picture.convert("RGB")


def read_picture(path: Path) -> Image.Image:
    """An image file as `in_rgb` has it."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the files in it.")
    if not path.is_file():
        raise FileNotFoundError(f"there is no image {path}.")
    try:
        with Image.open(path) as file:
            return in_rgb(file)
    except Exception as error:  # for a broken file Pillow raises nearly every kind
        raise ValueError(f"{path} cannot be read as an image: {error}.") from error


class Images(Labelled):
    """Image files, read as RGB pictures of Pillow and transformed.

    Args:
        paths: the files.
        targets: the class index of each, from 0.
        classes: the names of the classes.
        transform: of the picture; None for the picture itself.

    Raises:
        ValueError: a file is listed twice.
        FileNotFoundError: a file is not there.
    """

    def __init__(
        self, paths: Sequence[Path], targets: Sequence[int], classes: Sequence[str], transform: Transform | None = None
    ) -> None:
        self.paths = list(paths)
        self.targets = list(targets)
        self.classes = list(classes)
        self.transform = transform
        if several := repeated(self.paths):
            raise ValueError(f"each image must be listed once; {several[0]} is listed more often.")
        # Now, rather than hours into the training.
        if missing := [path for path in self.paths if not path.is_file()]:
            raise FileNotFoundError(f"{len(missing)} of {len(self.paths)} images are missing, such as {missing[0]}.")

    def __getitem__(self, index: int) -> tuple[Any, int]:
        picture = self.picture(index)
        return picture if self.transform is None else self.transform(picture), self.targets[index]

    def picture(self, index: int) -> Image.Image:
        """The picture before the transform."""
        path = self.paths[index]
        try:
            with Image.open(path) as file:
                return self.cropped(in_rgb(file), index)
        except Exception as error:  # for a broken file Pillow raises nearly every kind
            raise UnreadableError(
                f"{path} cannot be read as an image: {error}. It has been broken or removed; extract it again from the "
                "archive of the data set."
            ) from error

    def cropped(self, picture: Image.Image, index: int) -> Image.Image:
        """The part of the picture that is used: here, all of it."""
        return picture


def repeated(items: Sequence[Hashable]) -> list[Hashable]:
    """Items that occur more than once."""
    return [item for item, count in Counter(items).items() if count > 1]
