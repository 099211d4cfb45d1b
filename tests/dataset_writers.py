"""Data sets of a few images in the exact formats of their authors, to try and to test what reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from scipy.io import savemat

Draw = Callable[[Path, int], None]
"""Writes the picture of a number; the folder may be missing."""


def write_cub(root: Path, classes: Sequence[str], images: Mapping[int, tuple[int, bool]], draw: Draw) -> None:
    """CUB-200-2011.

    Args:
        root: gets the data set's folder.
        classes: their names.
        images: by number, the class, counted from 1, and whether it is trained on.
        draw: draws each image.
    """
    folder = root / "CUB_200_2011"
    files = {number: f"{classes[label - 1]}/Bird {number:04d}.jpg" for number, (label, _) in images.items()}
    for number, file in files.items():
        draw(folder / "images" / file, number)
    write_lines(folder / "classes.txt", [f"{label} {name}" for label, name in enumerate(classes, start=1)])
    write_lines(folder / "images.txt", [f"{number} {file}" for number, file in files.items()])
    # The files are joined by number, so their order must not matter.
    backwards = list(reversed(images.items()))
    write_lines(folder / "image_class_labels.txt", [f"{number} {label}" for number, (label, _) in backwards])
    flags = [f"{number} {int(is_training)}" for number, (_, is_training) in sorted(images.items())]
    write_lines(folder / "train_test_split.txt", flags)
    write_lines(folder / "bounding_boxes.txt", [f"{number} 5.0 7.5 {number + 20}.2 30.0" for number, _ in backwards])


def write_aircraft(
    root: Path, variants: Sequence[str], train: Mapping[int, str], test: Mapping[int, str], draw: Draw
) -> None:
    """FGVC-Aircraft: the variant of each image, by number."""
    folder = root / "fgvc-aircraft-2013b" / "data"
    for number in chain(train, test):
        draw(folder / "images" / f"{number:07d}.jpg", number)
    write_lines(folder / "variants.txt", variants)
    for part, images in (("trainval", train), ("test", test)):
        lines = [f"{number:07d} {variant}" for number, variant in images.items()]
        write_lines(folder / f"images_variant_{part}.txt", lines)


def write_flowers(root: Path, labels: Sequence[int], parts: Mapping[str, Sequence[int]], draw: Draw) -> None:
    """Oxford Flowers-102: the class of every image, counted from 1, and the images of trnid, valid and tstid."""
    folder = root / "flowers-102"
    for number in range(1, len(labels) + 1):
        draw(folder / "jpg" / f"image_{number:05d}.jpg", number)
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    write_setid(folder, parts)


def write_setid(folder: Path, parts: Mapping[str, Sequence[int]]) -> None:
    """The parts of the flowers."""
    savemat(folder / "setid.mat", {part: np.array([ids], np.uint16) for part, ids in parts.items()})


def write_cars(root: Path, classes: Sequence[str], train: Sequence[int], test: Sequence[int], draw: Draw) -> None:
    """Stanford Cars: the class of each image, counted from 1, for training and for testing."""
    folder = root / "stanford_cars"
    names = np.empty((1, len(classes)), object)
    names[0] = classes
    (folder / "devkit").mkdir(parents=True)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    write_annotations(folder / "devkit" / "cars_train_annos.mat", train)
    write_annotations(folder / "devkit" / "cars_test_annos.mat", [None] * len(test))
    write_annotations(folder / "cars_test_annos_withlabels.mat", test)
    for split, labels in (("train", train), ("test", test)):
        for number in range(1, len(labels) + 1):
            draw(folder / f"cars_{split}" / f"{number:05d}.jpg", number)


def write_annotations(path: Path, labels: Sequence[int | None]) -> None:
    """A struct array (1, n) whose numbers are (1, 1) and of the smallest type, as MATLAB writes them."""
    fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", *(["class"] if labels[0] else []), "fname"]
    annotations = np.empty((1, len(labels)), [(field, object) for field in fields])
    for number, label in enumerate(labels, start=1):
        numbers = {"bbox_x1": 7, "bbox_y1": 0, "bbox_x2": 1000, "bbox_y2": 9, "class": label}
        cells = {field: np.array([[value]], np.min_scalar_type(value)) for field, value in numbers.items()}
        for field in fields:
            annotations[0, number - 1][field] = f"{number:05d}.jpg" if field == "fname" else cells[field]
    savemat(path, {"annotations": annotations})


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """A text file, in Unix's way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
