"""The data sets that the MC-Loss was published with, images of one's own, and words in typefaces.

    train_set = load("cub", "data", "train", from_scratch(training=True))

Nothing is downloaded. Files that are missing, broken or not the published ones are an error that says what to mend.
"""

from __future__ import annotations

from pathlib import Path

from .aircraft import AIRCRAFT
from .cars import CARS
from .cub import CUB, CUB_BOXES
from .flowers import FLOWERS
from .folder import FOLDER
from .images import Images, Labelled, Transform
from .source import SPLITS, Sizes, Source
from .typefaces import TYPEFACES

__all__ = ["DATASETS", "SPLITS", "Images", "Labelled", "Sizes", "Source", "Transform", "load"]

DATASETS: dict[str, Source] = {
    "cub": CUB,
    "cub-boxes": CUB_BOXES,
    "aircraft": AIRCRAFT,
    "flowers": FLOWERS,
    "cars": CARS,
    "folder": FOLDER,
    "typefaces": TYPEFACES,
}
"""The data sets by name, with their published sizes."""


def load(
    name: str, root: str | Path | None, split: str, transform: Transform | None = None, *, seed: int = 0
) -> Labelled:
    """A data set from the files under a folder.

    Args:
        name: one of ``DATASETS``.
        root: the folder with the data set's own folder in it, as in ``DATASETS[name].layout``; None where pip installs
            the files.
        split: "train", with the validation images of the authors, or "test".
        transform: of each image; None for RGB pictures of Pillow.
        seed: of the images that are drawn, as in "typefaces"; files are the same for every seed.

    Returns:
        A `torch.utils.data.Dataset` of (image, class index) with ``classes``, their names, and ``targets``.

    Raises:
        FileNotFoundError: files are missing; the message says where to get them and where to put them.
        ValueError: a name or split that does not exist, or files that are not as their authors published them.
    """
    if name not in DATASETS:
        raise ValueError(f"name must be one of {', '.join(DATASETS)}; got {name!r}.")
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}.")
    source = DATASETS[name]
    return source.load(source.root("" if root is None else str(root)), split, transform, seed)
