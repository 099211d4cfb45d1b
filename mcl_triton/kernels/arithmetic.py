"""What the kernels compute with: comparisons that know NaN, the dtype, and which classes are whose."""

import triton
import triton.language as tl


@triton.constexpr_function
def compute_dtype(pointer_dtype):
    """float64 for float64, float32 for all others."""
    return tl.float64 if pointer_dtype == tl.float64 else tl.float32


@triton.jit
def nan_maximum(first, second):
    """The larger of two, NaN if either is."""
    return tl.maximum(first, second, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def beats(challenger, champion):
    """Whether the challenger, who comes later, is the new maximum: larger, or the first NaN."""
    return (challenger > champion) | ((challenger != challenger) & (champion == champion))


@triton.jit
def tile_of_program(num_tiles):
    """Sample (int64) and number of the tile within it. One grid dimension: the others end at 65535."""
    program = tl.program_id(0)
    return (program // num_tiles).to(tl.int64), program % num_tiles


@triton.jit
def classes_of_program(offsets, num_classes, TILE_CLASSES: tl.constexpr):
    """Sample (int64) and a tile of its classes: their numbers, which of them there are, first channels and ξ."""
    sample, tile = tile_of_program(tl.cdiv(num_classes, TILE_CLASSES))
    classes = tile * TILE_CLASSES + tl.arange(0, TILE_CLASSES)
    is_class = classes < num_classes
    first_channel = tl.load(offsets + classes, mask=is_class, other=0)
    size = tl.load(offsets + classes + 1, mask=is_class, other=0) - first_channel
    return sample, classes, is_class, first_channel, size
