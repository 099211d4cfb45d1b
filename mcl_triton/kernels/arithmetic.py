"""Arithmetic of the kernels: comparisons that respect NaN, the working dtype, and the coordinates of a tile.

A tile of maps has three axes, (layers, columns, rows) or (layers, rows, columns). A row is a map. A map lies in layers
of columns: position = layer · COLUMNS + column. The layers are the registers of a thread, so that reductions begin
there, and layers beyond the map are compiled to nothing. The columns or the rows, whichever lie side by side in memory,
are the last axis, along which the threads of a warp lie. COLUMN_AXIS, 0 or 1, is the columns' axis without the layers.

Where the elements of no axis lie side by side, Triton lays the threads of a warp along the last one too, but before 3.7
along the first. There all three axes are in reverse order.
"""

import triton
import triton.language as tl

IN_REVERSE = tl.constexpr(tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7))

LOG2_E = tl.constexpr(1.4426950408889634)  # exp(x) = exp2(x · LOG2_E); hardware computes exp2


@triton.constexpr_function
def compute_dtype(pointer_dtype):
    """float64 for float64, float32 for all others."""
    return tl.float64 if pointer_dtype == tl.float64 else tl.float32


@triton.constexpr_function
def tile_shape(layers, columns, rows, column_axis):
    """The shape of a tile."""
    shape = [layers, columns, rows] if column_axis == 0 else [layers, rows, columns]
    return shape[::-1] if IN_REVERSE else shape


@triton.constexpr_function
def layer_axis():
    """The layers' axis of a tile."""
    return 2 if IN_REVERSE else 0


@triton.constexpr_function
def column_axis_of(column_axis):
    """The columns' axis of a tile without its layers, COLUMN_AXIS or in reverse."""
    return 1 - column_axis if IN_REVERSE else column_axis


@triton.constexpr_function
def row_axis_of(column_axis):
    """The rows' axis of a tile."""
    return column_axis if IN_REVERSE else 2 - column_axis


@triton.constexpr_function
def place_dtype(place_bits):
    """The dtype in which two places of so many bits are packed and unpacked."""
    return tl.int64 if place_bits > 15 else tl.int32


@triton.jit
def pack(W_h, W_g, PLACE_BITS: tl.constexpr):
    """The winners of a position, as places of channels within their class, in one number."""
    DTYPE: tl.constexpr = place_dtype(PLACE_BITS)
    return W_h.to(DTYPE) | (W_g.to(DTYPE) << PLACE_BITS)


@triton.jit
def unpack(packed, PLACE_BITS: tl.constexpr):
    """W_h and W_g."""
    packed = packed.to(place_dtype(PLACE_BITS))
    PLACES: tl.constexpr = (1 << PLACE_BITS) - 1
    return packed & PLACES, (packed >> PLACE_BITS) & PLACES


@triton.jit
def nan_maximum(first, second):
    """The larger of two, NaN if either is."""
    return tl.maximum(first, second, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def differs(new, old):
    """Whether the maximum of an old one and a later value is a new one: a larger number, or the first NaN.

    Bits are compared, as NaN equals nothing. So no value may be -0, the maximum of which and 0 is 0.
    """
    BITS: tl.constexpr = tl.int64 if new.dtype == tl.float64 else tl.int32
    return new.to(BITS, bitcast=True) != old.to(BITS, bitcast=True)


@triton.jit
def for_rows(values, COLUMN_AXIS: tl.constexpr):
    """A value for each row, as a tile that broadcasts over layers and columns."""
    return tl.expand_dims(tl.expand_dims(values, column_axis_of(COLUMN_AXIS)), layer_axis())


@triton.jit
def over_positions(tile, COLUMN_AXIS: tl.constexpr):
    """The sum over layers and columns, (rows,)."""
    return tl.sum(tl.sum(tile, layer_axis()), column_axis_of(COLUMN_AXIS))


@triton.jit
def maximum_over_positions(tile, COLUMN_AXIS: tl.constexpr):
    """The maximum over layers and columns, (rows,)."""
    return tl.max(tl.max(tile, layer_axis()), column_axis_of(COLUMN_AXIS))


@triton.jit
def positions_of_tile(LAYERS: tl.constexpr, COLUMNS: tl.constexpr, COLUMN_AXIS: tl.constexpr):
    """The positions in a tile, which broadcast over rows; int64, since their strides may be large."""
    columns = tl.expand_dims(tl.expand_dims(tl.arange(0, COLUMNS), column_axis_of(1 - COLUMN_AXIS)), layer_axis())
    layers = tl.reshape(tl.arange(0, LAYERS), tile_shape(LAYERS, 1, 1, COLUMN_AXIS))
    return (layers * COLUMNS + columns).to(tl.int64)


@triton.jit
def exponential(x, maximum):
    """exp(x − maximum), exactly 1 at the maximum: x · LOG2_E − maximum · LOG2_E in one rounding would not be 0."""
    return tl.exp2((x - maximum) * LOG2_E)


@triton.jit
def tile_of_program(num_tiles):
    """Sample (int64) and number of the tile within it. One grid dimension: the others end at 65535."""
    program = tl.program_id(0)
    return (program // num_tiles).to(tl.int64), program % num_tiles


@triton.jit
def classes_of_program(offsets, num_classes, TILE_CLASSES: tl.constexpr):
    """Sample (int64) and a tile of its classes: their numbers, which of them there are, first channels and ξ."""
    sample, tile = tile_of_program(tl.cdiv(num_classes, TILE_CLASSES))
    classes, is_class, first_channel, size = classes_of_tile(offsets, num_classes, tile, TILE_CLASSES)
    return sample, classes, is_class, first_channel, size


@triton.jit
def classes_of_tile(offsets, num_classes, tile, TILE_CLASSES: tl.constexpr):
    """The classes of a tile: their numbers, which of them there are, first channels and ξ."""
    classes = tile * TILE_CLASSES + tl.arange(0, TILE_CLASSES)
    is_class = classes < num_classes
    first_channel = tl.load(offsets + classes, mask=is_class, other=0)
    size = tl.load(offsets + classes + 1, mask=is_class, other=0) - first_channel
    return classes, is_class, first_channel, size
