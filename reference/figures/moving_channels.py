"""An animation of where the channels of a class look, epoch by epoch, for several networks."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from scipy.spatial import cKDTree
from torch import Tensor

from .own_channels import Maps
from .theme import DARK, LIGHT, SMALL, WIDTH, Theme, fix_layout, page, use

_COLORS = ("orange", "blue", "green", "pink", "yellow", "sky")
_DPI = 800 / WIDTH
_PALETTE = 64  # colours of a file: more make it larger
_NOISE = 0.2  # of the ink's range: noise of the paper, left out
_FRAME, _LAST = 250, 3000  # milliseconds


@dataclass(frozen=True)
class Moment:
    """Maps of a network after an epoch, or before the first, 0."""

    epoch: int
    maps: Maps


def draw_moving_channels(
    films: Mapping[str, Sequence[Moment]], photos: Tensor, titles: Sequence[str], subtitle: str, folder: Path, name: str
) -> list[Path]:
    """A row per image, a column per network, each channel a colour. Writes NAME-light.gif and NAME-dark.gif.

    Args:
        films: by the name of the loss, the moments of its network, as many for each.
        photos: (B, H, W) in [0, 1].
        titles: of the images.
        subtitle: what the networks were trained on.
        folder: it is made.
        name: of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for theme in (LIGHT, DARK):
        with use(theme):
            figure, show = _stage(films, photos, titles, subtitle, theme)
            show(len(next(iter(films.values()))) - 1)  # the longest texts
            fix_layout(figure)
            frames = [_picture(figure, show, moment) for moment in range(len(next(iter(films.values()))))]
        paths.append(folder / f"{name}-{theme.name}.gif")
        _write(paths[-1], frames, theme)
    return paths


def coloured(photo: Tensor, maps: Tensor, theme: Theme) -> np.ndarray:
    """The ink of a photograph, (H, W), on paper that each map, (ξ, H, W), paints in its colour: (H, W, 3)."""
    paper: np.ndarray = np.array(to_rgb(theme.background))
    for heat, color in zip(maps.numpy(), _COLORS, strict=False):
        opacity = 0.9 * heat[..., None]
        paper = (1 - opacity) * paper + opacity * np.array(to_rgb(theme.colors[color]))
    ink = ((1 - photo.numpy()[..., None]) / (1 - _NOISE) - _NOISE / (1 - _NOISE)).clip(0)
    blend: np.ndarray = (1 - ink) * paper + ink * np.array(to_rgb(theme.ink))
    return blend


def _stage(
    films: Mapping[str, Sequence[Moment]], photos: Tensor, titles: Sequence[str], subtitle: str, theme: Theme
) -> tuple[Figure, Callable[[int], None]]:
    """The figure, and a function that shows a moment in it."""
    first, *_ = films.values()
    channels = first[0].maps[0].shape[1]
    rise = WIDTH / len(films) * photos.shape[1] / photos.shape[2]
    keys = [
        Patch(color=theme.colors[color], label=f"channel {place + 1}") for place, color in enumerate(_COLORS[:channels])
    ]
    title = "How a class's channels move in training"
    figure, body = page(theme, title, subtitle, 0.45 + len(photos) * (rise + 0.16), keys)
    margin = 0.1 / WIDTH
    _, *parts, _ = body.subfigures(1, len(films) + 2, width_ratios=[margin, *[1] * len(films), margin], wspace=0.02)
    axes = []
    for part, loss in zip(parts, films, strict=True):
        part.suptitle(loss, x=0, ha="left", fontsize=9.5, weight="bold")
        axes.append(part.subplots(len(photos), 1, squeeze=False)[:, 0])
        for axis in axes[-1]:
            axis.imshow(np.zeros((*photos.shape[1:], 3)), vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set(visible=True, color=theme.grid)

    def show(index: int) -> None:
        for part, column, (loss, film) in zip(parts, axes, films.items(), strict=True):
            moment = film[index]
            part.suptitle(f"{loss}\nepoch {moment.epoch}", x=0, ha="left", fontsize=9.5, weight="bold")
            for row, axis in enumerate(column):
                own, diversity = moment.maps
                axis.images[0].set_data(coloured(photos[row], own[row], theme))
                name = f"{titles[row]}: " if part is parts[0] else ""
                text = f"{name}h = {diversity[row]:.1f} of {channels}"
                axis.set_title(text, fontsize=SMALL, color=theme.muted, pad=2)

    return figure, show


def _picture(figure: Figure, show: Callable[[int], None], moment: int) -> Image.Image:
    show(moment)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=_DPI, format="png")
    return Image.open(buffer).convert("RGB")


def _write(path: Path, frames: Sequence[Image.Image], theme: Theme) -> None:
    """A GIF whose frames share the colours of the first and the last, those of the theme among them."""
    width, height = frames[0].size
    both = Image.new("RGB", (width, 2 * height))
    both.paste(frames[0], (0, 0))
    both.paste(frames[-1], (0, height))
    found = both.quantize(_PALETTE, Image.Quantize.MEDIANCUT, kmeans=2).getpalette() or []
    colors = np.array(found[: 3 * _PALETTE]).reshape(-1, 3)
    for exact in (theme.background, theme.ink):
        wanted = np.round(255 * np.array(to_rgb(exact)))
        colors[np.abs(colors - wanted).sum(axis=1).argmin()] = wanted
    first, *others = [_indexed(frame, colors) for frame in frames]
    durations = [*[_FRAME] * len(others), _LAST]
    first.save(path, save_all=True, append_images=others, duration=durations, loop=0, optimize=False)


def _indexed(frame: Image.Image, colors: np.ndarray) -> Image.Image:
    """A frame in the nearest of these colours, which Pillow finds only roughly."""
    packed = np.asarray(frame).astype(np.int32) @ (65536, 256, 1)
    there, index = np.unique(packed, return_inverse=True)
    _, nearest = cKDTree(colors).query(np.stack([there >> 16, there >> 8 & 255, there & 255], axis=1))
    indexed = Image.fromarray(nearest[index].reshape(frame.height, frame.width).astype(np.uint8), "P")
    indexed.putpalette(colors.astype(np.uint8).tobytes())
    return indexed
