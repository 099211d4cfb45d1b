"""Heat maps over photographs."""

from __future__ import annotations

import matplotlib
import numpy as np
from torch import Tensor

_HEAT = matplotlib.colormaps["magma"]


def overlay(photo: Tensor, heat: Tensor) -> np.ndarray:
    """A map in [0, 1] over a photograph in [0, 1], (H, W) each -> (H, W, 3)."""
    opacity = 0.35 + 0.4 * heat[..., None].numpy()
    blend: np.ndarray = (1 - opacity) * photo[..., None].numpy() + opacity * _HEAT(heat.numpy())[..., :3]
    return blend
