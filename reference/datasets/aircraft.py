"""FGVC-Aircraft: 100 variants of aircraft, 6667 photographs to train on and 3333 to test.

Read here rather than by torchvision's class, which leaves the banner on the images.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from .images import Images, Transform, repeated
from .source import Sizes, Source
from .text import read_keyed, read_lines

_BANNER = 20  # pixels


class WithoutBanner(Images):
    """Pictures without their lowest 20 rows.

    These name the photographer, which says something about what is on the picture: the authors ask to remove them for
    training and evaluation.
    """

    def cropped(self, picture: Image.Image, index: int) -> Image.Image:
        if picture.height <= _BANNER:
            raise ValueError(f"it has {picture.height} rows of pixels, of which the lowest {_BANNER} are no picture")
        return picture.crop((0, 0, picture.width, picture.height - _BANNER))


def read(root: Path, split: str, transform: Transform | None, seed: int) -> Images:
    """The images of a split, in the order of the file, classified by variant; validation images are trained on."""
    folder = root / "fgvc-aircraft-2013b" / "data"
    variants = [line for _, line in read_lines(folder / "variants.txt")]
    if several := repeated(variants):
        raise ValueError(f"{folder / 'variants.txt'}: {several[0]!r} is there more than once.")
    index = {variant: number for number, variant in enumerate(variants)}
    path = folder / f"images_variant_{'trainval' if split == 'train' else 'test'}.txt"
    rows = read_keyed(path)
    if unknown := [row for row in rows.items() if row[1] not in index]:
        raise ValueError(f"{path}: image {unknown[0][0]} is of the variant {unknown[0][1]!r}, not in variants.txt.")
    files = [folder / "images" / f"{image}.jpg" for image in rows]
    return WithoutBanner(files, [index[variant] for variant in rows.values()], variants, transform)


AIRCRAFT = Source(
    title="FGVC-Aircraft",
    origin="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/, the archive fgvc-aircraft-2013b.tar.gz",
    layout="""
fgvc-aircraft-2013b/
    data/
        variants.txt
        images_variant_trainval.txt
        images_variant_test.txt
        images/
            0034309.jpg
            ...
""",
    read=read,
    sizes=Sizes(classes=100, train=6667, test=3333),
)
