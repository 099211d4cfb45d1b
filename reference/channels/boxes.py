"""Locate an image's class by its activation map alone: a box around the largest connected part that is active.

Source: Zhou, Khosla, Lapedriza, Oliva and Torralba, "Learning Deep Features for Discriminative Localization",
CVPR 2016: the map is enlarged to the image, what is above 20 % of its maximum is kept, and the box covers the largest
connected component.
"""

from __future__ import annotations

from scipy import ndimage
from torch import Tensor
from torch.nn.functional import interpolate

Box = tuple[int, int, int, int]
"""Left, top, width and height in whole pixels."""

THRESHOLD = 0.2


def locate(heat: Tensor, image_size: tuple[int, int], threshold: float = THRESHOLD) -> Box | None:
    """The box around the largest connected component of a map above a fraction of its maximum.

    Two positions are connected if they share an edge; of components of one size the first from the top counts.

    Args:
        heat: the map of one class, (H', W'), for instance of `class_maps`.
        image_size: H and W in pixels of the image that the map covers.
        threshold: fraction of the maximum, from 0 to below 1.

    Returns:
        The box; None for a map without a positive value.

    Raises:
        ValueError: ``heat`` is no single map, or ``threshold`` is out of range.
    """
    if heat.dim() != 2:
        raise ValueError(f"heat must be one map, (H, W); got {tuple(heat.shape)}.")
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold must be from 0 to below 1, a fraction of the maximum; got {threshold}.")
    enlarged = interpolate(heat.detach().float()[None, None], image_size, mode="bilinear")[0, 0].cpu()
    is_active = enlarged > threshold * enlarged.max()  # nowhere, if that is not positive
    components, number = ndimage.label(is_active.numpy())
    if number == 0:
        return None
    sizes = ndimage.sum_labels(is_active, components, range(1, number + 1))
    rows, columns = ndimage.find_objects(components)[int(sizes.argmax())]
    return columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start
