"""Photographs and heat maps over them, side by side in a figure that is laid out in inches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

DPI = 100
SEAM = 0.04  # inches between neighbouring panels
_HEAT = matplotlib.colormaps["magma"]


def grey(photo: Tensor) -> np.ndarray:
    """(H, W) -> (H, W, 3)."""
    return photo[..., None].expand(-1, -1, 3).numpy()


def overlay(photo: Tensor, heat: Tensor) -> np.ndarray:
    """A map in [0, 1] over a photograph in [0, 1], (H, W) each -> (H, W, 3)."""
    opacity = 0.35 + 0.4 * heat[..., None].numpy()
    blend: np.ndarray = (1 - opacity) * grey(photo) + opacity * _HEAT(heat.numpy())[..., :3]
    return blend


def panel(figure: Figure, x: float, y: float, width: float, height: float, picture: np.ndarray) -> Axes:
    """Show a picture, its upper left corner x and y inches from that of the figure."""
    whole_width, whole_height = figure.get_size_inches()
    axis = figure.add_axes(
        (x / whole_width, 1 - (y + height) / whole_height, width / whole_width, height / whole_height)
    )
    axis.imshow(picture, vmin=0, vmax=1, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    return axis


def write(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    """Write, x and y inches from the upper left corner."""
    width, height = figure.get_size_inches()
    figure.text(x / width, 1 - y / height, text, parse_math=False, **style)  # a name may have dollars


def save(figure: Figure, path: Path) -> None:
    """Write the PNG file, and close the figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, pil_kwargs={"optimize": True})
    plt.close(figure)
