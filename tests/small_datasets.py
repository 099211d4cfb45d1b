"""Small data sets in the formats of their authors."""

from pathlib import Path

import dataset_writers as writers
from PIL import Image

from reference.datasets import Sizes

SMALL = {
    "cub": Sizes(classes=3, train=4, test=3),
    "cub-boxes": Sizes(classes=3, train=4, test=3),
    "aircraft": Sizes(classes=3, train=4, test=2),
    "flowers": Sizes(classes=102, train=4, test=3),
    "cars": Sizes(classes=3, train=3, test=2),
}


def draw(path: Path, number: int, *, mode: str = "RGB", height: int = 60) -> None:
    """An image that can be recognised by its width, 40 + number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (40 + number, height)).save(path, quality=100)


def draw_bird(path: Path, number: int) -> None:
    draw(path, number, mode="L" if number == 3 else "RGB")


def write_cub(root: Path) -> None:
    # Of each image the class and whether it is trained on; the numbers have a gap and are not in order of the class.
    images = {
        **{1: (1, True), 2: (2, False), 3: (2, True), 4: (1, False)},
        **{10: (3, True), 11: (3, False), 12: (1, True)},
    }
    writers.write_cub(root, ["001.Auk", "002.Great Tit", "003.Wren"], images, draw_bird)


def write_aircraft(root: Path) -> None:
    variants = ["Falcon 2000", "Cessna 172", "F/A-18"]
    train = {1: "F/A-18", 2: "Falcon 2000", 3: "Cessna 172", 4: "F/A-18"}
    writers.write_aircraft(root, variants, train, {5: "Cessna 172", 6: "Falcon 2000"}, draw)


def write_flowers(root: Path) -> None:
    parts = {"trnid": [6, 2], "valid": [5, 1], "tstid": [7, 3, 4]}
    writers.write_flowers(root, [51, 1, 77, 1, 102, 77, 102], parts, draw)


def write_cars(root: Path) -> None:
    names = ["AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012", "smart fortwo Convertible 2012"]
    writers.write_cars(root, names, [3, 1, 2], [2, 3], draw)


def write_folder(root: Path, evaluation: str = "test") -> None:
    for split, number in (("train", 1), (evaluation, 2)):
        draw(root / split / "sea eagle" / "one.jpg", 10 * number)
        draw(root / split / "Auk" / "b" / "two.png", 10 * number + 1)


WRITERS = {
    "cub": write_cub,
    "cub-boxes": write_cub,
    "aircraft": write_aircraft,
    "flowers": write_flowers,
    "cars": write_cars,
}
