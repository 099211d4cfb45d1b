"""Images of one's own, in a folder for each class; the authors' script of the MC-Loss takes CUB-200-2011 like this."""

from __future__ import annotations

from pathlib import Path

from .images import Images, Transform
from .source import Source


def _contents(folder: Path) -> tuple[list[str], list[tuple[str, int]]]:
    """The classes, and each image with its class index, without files and folders whose names begin with a dot."""
    from torchvision.datasets.folder import find_classes, is_image_file, make_dataset  # here, as it loads PyTorch

    def is_visible_image(path: str) -> bool:
        is_hidden = any(part.startswith(".") for part in Path(path).relative_to(folder).parts)
        return is_image_file(path) and not is_hidden

    classes = [name for name in find_classes(folder)[0] if not name.startswith(".")]
    indices = {name: number for number, name in enumerate(classes)}
    return classes, make_dataset(str(folder), indices, is_valid_file=is_visible_image)


def read(root: Path, split: str, transform: Transform | None, seed: int) -> Images:
    """The images of a split; classes are numbered in the order of their folders' names.

    Testing is on ``test`` or, where that is not there, on ``val``. What is hidden, its name beginning with a dot, is
    left out: macOS and notebooks put files beside images that are named like images.
    """
    folders = {"train": root / "train", "test": root / "test" if (root / "test").is_dir() else root / "val"}
    for folder in folders.values():
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is missing.")
    contents = {name: _contents(folder) for name, folder in folders.items()}
    in_train, in_test = (set(classes) for classes, _ in contents.values())
    if unshared := sorted(in_train ^ in_test):
        raise ValueError(
            f"{folders['train']} and {folders['test']} must have the same classes; {len(unshared)} are only in one of "
            f"them, such as {unshared[0]!r}."
        )
    classes, images = contents[split]
    return Images([Path(path) for path, _ in images], [target for _, target in images], classes, transform)


FOLDER = Source(
    title="images",
    origin="wherever you have them",
    layout="""
train/
    first class/
        any name.jpg
        ...
    second class/
        ...
    ...
test/        (or val/)
    first class/
        ...
    ...
""",
    read=read,
)
