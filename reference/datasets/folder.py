"""Images of one's own, in a folder for each class; the authors' script of the MC-Loss takes CUB-200-2011 like this."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import is_image_file

from .images import Images, Transform
from .source import Source


class _Visible(ImageFolder):
    """Images in a folder for each class, without files and folders whose names begin with a dot."""

    def __init__(self, folder: Path) -> None:
        def is_visible_image(path: str) -> bool:
            is_hidden = any(part.startswith(".") for part in Path(path).relative_to(folder).parts)
            return is_image_file(path) and not is_hidden

        super().__init__(folder, is_valid_file=is_visible_image)

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        classes = [name for name in super().find_classes(directory)[0] if not name.startswith(".")]
        return classes, {name: number for number, name in enumerate(classes)}


def read(root: Path, split: str, transform: Transform | None, seed: int) -> Images:
    """The images of a split; classes are numbered in the order of their folders' names.

    Testing is on ``test`` or, where that is not there, on ``val``. What is hidden, its name beginning with a dot, is
    left out: macOS and notebooks put files beside images that are named like images.
    """
    folders = {"train": root / "train", "test": root / "test" if (root / "test").is_dir() else root / "val"}
    for folder in folders.values():
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is missing.")
    contents = {name: _Visible(folder) for name, folder in folders.items()}
    in_train, in_test = (set(content.classes) for content in contents.values())
    if unshared := sorted(in_train ^ in_test):
        raise ValueError(
            f"{folders['train']} and {folders['test']} must have the same classes; {len(unshared)} are only in one of "
            f"them, such as {unshared[0]!r}."
        )
    content = contents[split]
    return Images([Path(path) for path, _ in content.samples], content.targets, content.classes, transform)


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
