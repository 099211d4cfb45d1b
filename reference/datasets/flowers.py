"""Oxford Flowers-102: 102 flowers, 2040 photographs to train on and 6149 to test.

Read here rather than by torchvision's class, which has no split of training and validation together and takes only
files of known MD5 sums.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from .images import Images, Transform
from .mat import class_indices, read_mat
from .source import Sizes, Source

_PARTS = {"train": ("trnid", "valid"), "test": ("tstid",)}


def read(root: Path, split: str, transform: Transform | None, seed: int) -> Images:
    """The images of a split, in the order of the file."""
    folder = root / "flowers-102"
    labels = read_mat(folder / "imagelabels.mat", "labels").tolist()
    parts = {part: read_mat(folder / "setid.mat", part).tolist() for parts in _PARTS.values() for part in parts}
    if sorted(chain(*parts.values())) != list(range(1, len(labels) + 1)):
        found = ", ".join(f"{len(ids)} in {part}" for part, ids in parts.items())
        raise ValueError(
            f"{folder / 'setid.mat'} must have each of the {len(labels)} images of imagelabels.mat in one part; got "
            f"{found}. One of the files is broken or not the authors': download both again."
        )
    from torchvision.datasets import Flowers102  # here, as it loads PyTorch

    # The authors' files have no names; torchvision lists those of their page.
    classes = Flowers102.classes
    targets = class_indices(labels, len(classes), folder / "imagelabels.mat")
    numbers = [int(number) for part in _PARTS[split] for number in parts[part]]
    files = [folder / "jpg" / f"image_{number:05d}.jpg" for number in numbers]
    return Images(files, [targets[number - 1] for number in numbers], classes, transform)


FLOWERS = Source(
    title="Oxford Flowers-102",
    origin=(
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/, the archive 102flowers.tgz and the files imagelabels.mat "
        "and setid.mat"
    ),
    layout="""
flowers-102/
    imagelabels.mat
    setid.mat
    jpg/
        image_00001.jpg
        ...
""",
    read=read,
    sizes=Sizes(classes=102, train=2040, test=6149),
)
