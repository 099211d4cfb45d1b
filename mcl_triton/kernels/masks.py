"""The kernel that turns random keys into a mask: in each class the channels with the smallest keys are dropped."""

import triton
import triton.language as tl

from .arithmetic import classes_of_program


@triton.jit
def mask_kernel(
    keys,  # (B, N) int64
    offsets,  # first channel of each class, and N: (C + 1,)
    dropped,  # how many channels each class loses, (C,)
    mask,  # (B, N), written
    num_classes,
    num_channels,
    TILE_CLASSES: tl.constexpr,
    TILE_PLACES: tl.constexpr,
):
    sample, classes, is_class, first_channel, size = classes_of_program(offsets, num_classes, TILE_CLASSES)
    num_dropped = tl.load(dropped + classes, mask=is_class, other=0)
    first_key = keys + sample * num_channels + first_channel
    place = tl.arange(0, TILE_PLACES)[None, :]
    is_channel = place < size[:, None]
    own_key = tl.load(first_key[:, None] + place, mask=is_channel, other=0)
    rank = tl.zeros([TILE_CLASSES, TILE_PLACES], tl.int32)
    for other_place in range(0, tl.max(size, 0)):
        is_other = other_place < size
        other_key = tl.load(first_key + other_place, mask=is_other, other=0)[:, None]
        is_before = (other_key < own_key) | ((other_key == own_key) & (other_place < place))
        rank += (is_before & is_other[:, None]).to(tl.int32)
    kept = tl.where(rank >= num_dropped[:, None], 1.0, 0.0).to(mask.dtype.element_ty)
    tl.store(mask + sample * num_channels + first_channel[:, None] + place, kept, mask=is_channel)
