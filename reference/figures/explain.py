"""Draw where the channels of a class look in given images: ``python -m reference explain --help``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image
from torch import Tensor

from ..channels.explanation import class_index, explain_image
from ..commands import Explain
from ..datasets import Transform
from ..datasets.images import read_picture
from ..datasets.transforms import photograph
from ..model.network import MCNetwork
from ..training.build import picture_transform
from ..training.checkpoint import load_network
from .explanation_figure import Panel, explanation_figure
from .explorer import write_explorer
from .theme import LIGHT, save_one


@dataclass(frozen=True)
class Viewer:
    """A network with what it takes to show it a picture.

    Args:
        name: for titles.
        network: on the CPU.
        transform: an RGB picture of Pillow -> (image channels, H, W).
        classes: the names of its classes.
    """

    name: str
    network: MCNetwork
    transform: Transform
    classes: Sequence[str]


def main(options: Explain) -> None:
    """Draw a figure for each image."""
    viewers = [load_viewer(path) for path in (options.checkpoint, options.compare) if path is not None]
    explain(options.images, viewers, options.output, options.true_class, options.html)


def explain(
    images: Sequence[Path],
    viewers: Sequence[Viewer],
    output: Path,
    true_class: str | None = None,
    html: Path | None = None,
) -> list[Path]:
    """Draw, and print in numbers, what each network's channels look at in each image.

    Args:
        images: files.
        viewers: the networks, of the same classes.
        output: the folder for the figures, each named after its image: ``bird.jpg`` gives ``bird-channels.png``.
        true_class: of every image; None to look at the predicted class alone.
        html: a page to explore all images in a browser; None for none.

    Returns:
        The figures' files.

    Raises:
        ValueError: an image cannot be read, two would give one file, the networks have other classes, or there is no
            such class; the message has the nearest names.
    """
    first, *others = viewers
    for other in others:
        if list(other.classes) != list(first.classes):
            raise ValueError(
                f"the networks must have the same classes; {first.name} has {_some(first.classes)} and {other.name} "
                f"{_some(other.classes)}."
            )
    if true_class is not None:
        class_index(true_class, first.classes)
    paths: dict[Path, Path] = {}  # by them, the images
    for image in images:
        path = output / f"{image.stem}-channels.png"
        if path in paths:
            raise ValueError(f"{paths[path]} and {image} would both be drawn to {path}; draw them to two folders.")
        paths[path] = image
    drawn: dict[str, list[Panel]] = {}
    for path, image in paths.items():
        picture = read_picture(image)
        drawn[str(image)] = panels = [show(viewer, picture, true_class) for viewer in viewers]
        save_one(partial(explanation_figure, panels, image.name), LIGHT, path)
        print(path)
        for panel in panels:
            for explanation in panel.explanations:
                print(f"  {panel.name}: {explanation.title()}: {explanation.numbers()}")
    if html is not None:
        write_explorer(html, drawn)
        print(html)
    return list(paths)


def show(viewer: Viewer, picture: Image.Image, true_class: str | None) -> Panel:
    """A picture as a network sees it, and where its channels look there."""
    image: Tensor = viewer.transform(picture)
    photo = photograph(image, viewer.transform)
    return Panel(viewer.name, photo, explain_image(viewer.network, image, viewer.classes, true_class))


def load_viewer(path: Path) -> Viewer:
    """The network of a checkpoint, named after the checkpoint and its loss."""
    network, settings, classes = load_network(path)
    name = f"{settings.loss} ({'/'.join(path.parts[-2:])})"
    return Viewer(name, network, picture_transform(settings, training=False), classes)


def _some(classes: Sequence[str]) -> str:
    return f"{len(classes)} ({', '.join(classes[:3])}{', …' if len(classes) > 3 else ''})"
