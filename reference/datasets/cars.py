"""Stanford Cars: 196 makes, models and years of cars, 8144 photographs to train on and 8041 to test.

Read here rather than by torchvision's class, which wants the test labels in one of the two places where copies have
them.
"""

from __future__ import annotations

from pathlib import Path

from .images import Images, Transform
from .mat import class_indices, read_mat
from .source import Sizes, Source

_TEST_ANNOTATIONS = "cars_test_annos_withlabels.mat"


def read(root: Path, split: str, transform: Transform | None, seed: int) -> Images:
    """The images of a split, in the order of the file."""
    folder = root / "stanford_cars"
    path = folder / "devkit" / ("cars_train_annos.mat" if split == "train" else _TEST_ANNOTATIONS)
    if not path.is_file() and (folder / path.name).is_file():
        path = folder / path.name
    classes = [str(name.item()) for name in read_mat(folder / "devkit" / "cars_meta.mat", "class_names")]
    annotations = read_mat(path, "annotations")
    if not {"class", "fname"} <= set(annotations.dtype.names or ()):
        raise ValueError(
            f"{path}: each annotation must have the fields class and fname; got {annotations.dtype.names}. For tests "
            f"the devkit's cars_test_annos.mat does not do; {_TEST_ANNOTATIONS}, a file of its own, has the classes."
        )
    files = [folder / f"cars_{split}" / str(annotation["fname"].item()) for annotation in annotations]
    targets = class_indices([annotation["class"].item() for annotation in annotations], len(classes), path)
    return Images(files, targets, classes, transform)


CARS = Source(
    title="Stanford Cars",
    origin="https://github.com/pytorch/vision/issues/7545, which lists copies, as the authors' own page is gone",
    layout="""
stanford_cars/
    devkit/
        cars_meta.mat
        cars_train_annos.mat
        cars_test_annos_withlabels.mat        (or beside devkit)
    cars_train/
        00001.jpg
        ...
    cars_test/
        00001.jpg
        ...
""",
    read=read,
    sizes=Sizes(classes=196, train=8144, test=8041),
)
