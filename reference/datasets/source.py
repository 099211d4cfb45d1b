"""A data set's source: what its authors publish about it, and how the files are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import Any

from .images import Labelled, Transform

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Sizes:
    """Numbers that the authors publish: the number of classes, and of images for training and for testing."""

    classes: int
    train: int
    test: int


@dataclass(frozen=True)
class Source:
    """Origin of a data set, the layout of its folder, and the function that reads it.

    Args:
        title: the authors' name for it.
        origin: where to get it.
        layout: the files below the root, as a tree.
        read: (root, split, transform, seed) -> the data set, for the split "train" or "test". The seed is of what is
            drawn at random; files that are read are the same for every seed.
        sizes: the published ones, which the files must have; None for files of one's own.
        is_installed: whether pip installs the files, so that the root, None then, need not be given.
    """

    title: str
    origin: str
    layout: str
    read: Callable[[Any, str, Transform | None, int], Labelled]
    sizes: Sizes | None = None
    is_installed: bool = False

    def load(self, root: Path | None, split: str, transform: Transform | None, seed: int) -> Labelled:
        """Read the files and compare them with the published sizes."""
        try:
            dataset = self.read(root, split, transform, seed)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}\n{self._advice(root)}" if root else str(error)) from None
        if self.sizes is not None:
            expected = (getattr(self.sizes, split), self.sizes.classes)
            found = (len(dataset), len(dataset.classes))
            if found != expected:
                raise ValueError(
                    f"{self.title} has {expected[0]} images of {expected[1]} classes in the split {split!r}; the files "
                    f"list {found[0]} of {found[1]}, so some were cut short or changed. For a part of the data put "
                    f"the images into folders and load 'folder'.\n{self._advice(root)}"
                )
        return dataset

    def root(self, data: str) -> Path | None:
        """The folder that ``--data`` names, or the one around it where it names the data set's own folder.

        None where pip installs the files; ValueError where it must name one.
        """
        if not data and not self.is_installed:
            advice = self._advice(Path("FOLDER"))
            raise ValueError(f"{self.title} needs --data FOLDER, the folder with its files.\n{advice}")
        if not data:
            return None
        root, own = Path(data).expanduser(), self.layout.strip().partition("/")[0]
        return root.parent if self.sizes and root.name == own and not (root / own).exists() else root

    def _advice(self, root: Path) -> str:
        tree = indent(self.layout.strip("\n"), "    ")
        return f"Get {self.title} from {self.origin}. The folder must look like this:\n{root}/\n{tree}"
