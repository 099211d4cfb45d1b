"""Caltech-UCSD Birds-200-2011: 200 species of birds, 5994 photographs to train on and 5794 to test."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from PIL import Image

from .images import Images, Transform
from .source import Sizes, Source
from .text import read_keyed

BoundingBox = tuple[float, float, float, float]
"""Left, top, width and height in pixels."""


class Boxes(Images):
    """Pictures cut to the box around the bird, one for each."""

    def __init__(
        self,
        paths: Sequence[Path],
        targets: Sequence[int],
        classes: Sequence[str],
        transform: Transform | None,
        boxes: Sequence[BoundingBox],
    ) -> None:
        super().__init__(paths, targets, classes, transform)
        self.boxes = list(boxes)

    def cropped(self, picture: Image.Image, index: int) -> Image.Image:
        left, top, width, height = self.boxes[index]
        # Whole pixels around the box, within the picture.
        edges = (
            max(0, math.floor(left)),
            max(0, math.floor(top)),
            min(picture.width, math.ceil(left + width)),
            min(picture.height, math.ceil(top + height)),
        )
        if edges[0] >= edges[2] or edges[1] >= edges[3]:
            raise ValueError(f"its box {self.boxes[index]} is outside its {picture.width}×{picture.height} pixels")
        return picture.crop(edges)


def read(root: Path, split: str, transform: Transform | None, seed: int, *, crop_to_box: bool = False) -> Images:
    """The images of a split, in the order of ``images.txt``.

    Args:
        root: the folder with ``CUB_200_2011`` in it.
        split: "train" or "test".
        transform: of the picture.
        crop_to_box: cut each picture to the box around the bird, from ``bounding_boxes.txt``.
    """
    folder = root / "CUB_200_2011"
    files = read_keyed(folder / "images.txt")
    classes = read_keyed(folder / "classes.txt")
    labels = _of_images(folder / "image_class_labels.txt", files, classes, "a class of classes.txt")
    is_training = _of_images(folder / "train_test_split.txt", files, ("0", "1"), "1 for training or 0 for testing")
    index = {label: position for position, label in enumerate(classes)}

    ids = [image for image in files if is_training[image] == ("1" if split == "train" else "0")]
    paths = [folder / "images" / files[image] for image in ids]
    targets = [index[labels[image]] for image in ids]
    names = list(classes.values())
    if not crop_to_box:
        return Images(paths, targets, names, transform)
    path = folder / "bounding_boxes.txt"
    boxes = _of_images(path, files)
    return Boxes(paths, targets, names, transform, [_box(boxes[image], f"{path}: image {image}") for image in ids])


def _of_images(
    path: Path, images: Collection[str], values: Collection[str] | None = None, expected: str = ""
) -> dict[str, str]:
    """Values of a file per image: of all of ``images`` and no other, and one of ``values``."""
    rows = read_keyed(path)
    if lacking := [image for image in images if image not in rows]:
        raise ValueError(f"{path} lacks {len(lacking)} of the {len(images)} images of images.txt: {_some(lacking)}.")
    if unknown := [image for image in rows if image not in images]:
        raise ValueError(f"{path} has {len(unknown)} images that images.txt lacks: {_some(unknown)}.")
    if values is not None and (wrong := [image for image, value in rows.items() if value not in values]):
        raise ValueError(f"{path}: image {wrong[0]} must have {expected}; got {rows[wrong[0]]!r}.")
    return rows


def _some(ids: list[str]) -> str:
    return ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")


def _box(text: str, place: str) -> BoundingBox:
    try:
        left, top, width, height = map(float, text.split())
    except ValueError:
        left = top = width = height = math.nan
    if not (math.isfinite(left) and math.isfinite(top) and 0 < width < math.inf and 0 < height < math.inf):
        raise ValueError(f"{place} must have left, top, width and height in pixels; got {text!r}.")
    return left, top, width, height


CUB = Source(
    title="CUB-200-2011",
    origin="https://www.vision.caltech.edu/datasets/cub_200_2011/, the archive CUB_200_2011.tgz",
    layout="""
CUB_200_2011/
    images.txt
    image_class_labels.txt
    train_test_split.txt
    classes.txt
    bounding_boxes.txt        (for cub-boxes)
    images/
        001.Black_footed_Albatross/
            Black_Footed_Albatross_0046_18.jpg
            ...
        ...
""",
    read=read,
    sizes=Sizes(classes=200, train=5994, test=5794),
)

CUB_BOXES = replace(CUB, read=partial(read, crop_to_box=True))
