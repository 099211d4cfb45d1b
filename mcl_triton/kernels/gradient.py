"""Backward, for maps of any size and layout.

Forward left the winner of each position, so that every channel is on its own: the rows of a tile are channels next to
each other, of whichever classes. Maps that fit a tile are read once, larger ones twice. The axes of a tile: see
`arithmetic`.
"""

import triton
import triton.language as tl

from .arithmetic import (
    compute_dtype,
    exponential,
    for_rows,
    over_positions,
    place_dtype,
    positions_of_tile,
    tile_of_program,
    tile_shape,
)


@triton.jit
def backward_kernel(
    features,  # F
    grad,  # dF, as F, written
    mask,  # M, (N,) or (B, N)
    class_of_channel,  # i, (N,)
    offsets,  # first channel of each class, and N: (C + 1,)
    grad_scores,  # dg, (B, C)
    grad_diversity,  # dh, (B, C)
    statistics,  # maximum m and 1 / Σ exp(F − m) of each map, (2, B, N), from forward
    winners,  # W_h and W_g of each class and position, from forward
    grad_loss,  # a scalar that dg and dh are multiplied by
    mask_sample_stride,
    mask_channel_stride,
    grad_scores_sample_stride,
    grad_scores_class_stride,
    grad_diversity_sample_stride,
    grad_diversity_class_stride,
    batch,
    num_classes,
    NUM_CHANNELS: tl.constexpr,
    NUM_POSITIONS: tl.constexpr,
    SAMPLE_STRIDE: tl.constexpr,
    CHANNEL_STRIDE: tl.constexpr,
    POSITION_STRIDE: tl.constexpr,
    GRAD_SAMPLE_STRIDE: tl.constexpr,
    GRAD_CHANNEL_STRIDE: tl.constexpr,
    GRAD_POSITION_STRIDE: tl.constexpr,
    WINNER_CLASS_STRIDE: tl.constexpr,
    WINNER_POSITION_STRIDE: tl.constexpr,
    LAYERS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMN_AXIS: tl.constexpr,
    PLACE_BITS: tl.constexpr,
    HAS_MASK: tl.constexpr,
    HAS_GRAD_SCORES: tl.constexpr,
    HAS_GRAD_DIVERSITY: tl.constexpr,
    HAS_GRAD_LOSS: tl.constexpr,
):
    # s[j,k] = softmax_k F[j,k],  w[j] = Σ_k dh · s[j,k] · [W_h[k] = j]
    # dF[j,k] = s[j,k] · (dh · [W_h[k] = j] − w[j]) + dg / P · M[j] · [W_g[k] = j]
    # A channel that wins nowhere has w = 0 also where dh is infinite.
    sample, tile = tile_of_program(tl.cdiv(NUM_CHANNELS, ROWS))
    channels = tile * ROWS + tl.arange(0, ROWS)
    is_channel = channels < NUM_CHANNELS
    classes = tl.load(class_of_channel + channels, mask=is_channel, other=0)
    j = for_rows(channels - tl.load(offsets + classes, mask=is_channel, other=0), COLUMN_AXIS)  # place in its class
    classes = classes.to(tl.int64)
    rows = channels.to(tl.int64)
    features += sample * SAMPLE_STRIDE + for_rows(rows * CHANNEL_STRIDE, COLUMN_AXIS)
    grad += sample * GRAD_SAMPLE_STRIDE + for_rows(rows * GRAD_CHANNEL_STRIDE, COLUMN_AXIS)
    winners += sample * num_classes * NUM_POSITIONS + for_rows(classes * WINNER_CLASS_STRIDE, COLUMN_AXIS)
    dtype: tl.constexpr = compute_dtype(features.dtype.element_ty)
    IN_ONE_TILE: tl.constexpr = NUM_POSITIONS <= LAYERS * COLUMNS
    tile_k = positions_of_tile(LAYERS, COLUMNS, COLUMN_AXIS)
    of_rows = for_rows(is_channel, COLUMN_AXIS)
    inside = of_rows & (tile_k < NUM_POSITIONS)
    if HAS_GRAD_SCORES:
        grad_scores += sample * grad_scores_sample_stride + classes * grad_scores_class_stride
        dg = tl.load(grad_scores, mask=is_channel, other=0.0) / NUM_POSITIONS
        if HAS_GRAD_LOSS:
            dg *= tl.load(grad_loss)
        if HAS_MASK:
            M = tl.load(mask + sample * mask_sample_stride + rows * mask_channel_stride, mask=is_channel, other=0.0)
            dg *= M
        dg = for_rows(dg, COLUMN_AXIS)
    if HAS_GRAD_DIVERSITY:
        grad_diversity += sample * grad_diversity_sample_stride + classes * grad_diversity_class_stride
        dh = tl.load(grad_diversity, mask=is_channel, other=0.0)
        if HAS_GRAD_LOSS:
            dh *= tl.load(grad_loss)
        dh = for_rows(dh, COLUMN_AXIS)
        m = statistics + sample * NUM_CHANNELS + rows
        inverse_sum = tl.load(m + tl.full([], batch, tl.int64) * NUM_CHANNELS, mask=is_channel, other=0.0)
        inverse_sum = for_rows(inverse_sum, COLUMN_AXIS)
        m = for_rows(tl.load(m, mask=is_channel, other=0.0), COLUMN_AXIS)
        w = tl.zeros(tile_shape(LAYERS, COLUMNS, ROWS, COLUMN_AXIS), dtype)
        if IN_ONE_TILE:
            s, packed = look(features, winners, m, inverse_sum, tile_k, inside, POSITION_STRIDE, WINNER_POSITION_STRIDE)
            w = tl.where(is_winner(packed, j, 0, PLACE_BITS), dh * s, 0.0)
        else:
            for first in range(0, NUM_POSITIONS, LAYERS * COLUMNS):
                k = first + tile_k
                inside = of_rows & (k < NUM_POSITIONS)
                s, packed = look(features, winners, m, inverse_sum, k, inside, POSITION_STRIDE, WINNER_POSITION_STRIDE)
                w += tl.where(is_winner(packed, j, 0, PLACE_BITS), dh * s, 0.0)
        w = for_rows(over_positions(w, COLUMN_AXIS), COLUMN_AXIS)
    elif IN_ONE_TILE:
        packed = tl.load(winners + tile_k * WINNER_POSITION_STRIDE, mask=inside, other=-1)

    for first in range(0, NUM_POSITIONS, LAYERS * COLUMNS):
        k = first + tile_k
        inside = of_rows & (k < NUM_POSITIONS)
        dF = tl.zeros(tile_shape(LAYERS, COLUMNS, ROWS, COLUMN_AXIS), dtype)
        if not IN_ONE_TILE:
            if HAS_GRAD_DIVERSITY:
                s, packed = look(features, winners, m, inverse_sum, k, inside, POSITION_STRIDE, WINNER_POSITION_STRIDE)
            else:
                packed = tl.load(winners + k * WINNER_POSITION_STRIDE, mask=inside, other=-1)
        if HAS_GRAD_DIVERSITY:
            dF = s * tl.where(is_winner(packed, j, 0, PLACE_BITS), dh - w, -w)
        if HAS_GRAD_SCORES:
            dF += tl.where(is_winner(packed, j, PLACE_BITS, PLACE_BITS), dg, 0.0)
        tl.store(grad + k * GRAD_POSITION_STRIDE, dF.to(grad.dtype.element_ty), mask=inside)


@triton.jit
def look(
    features, winners, m, inverse_sum, k, inside, POSITION_STRIDE: tl.constexpr, WINNER_POSITION_STRIDE: tl.constexpr
):
    """s, and the packed winners, at positions k. Outside of the map s is 0, and nobody wins: dh · 0 may be NaN."""
    packed = tl.load(winners + k * WINNER_POSITION_STRIDE, mask=inside, other=-1)  # no place
    x = tl.load(features + k * POSITION_STRIDE, mask=inside, other=float("-inf")).to(m.dtype)
    return exponential(x, m) * inverse_sum, packed


@triton.jit
def is_winner(packed, place, SHIFT: tl.constexpr, PLACE_BITS: tl.constexpr):
    """Whether a place is W_h (SHIFT 0) or W_g (SHIFT PLACE_BITS) of `pack`, in one instruction of bits."""
    PLACES: tl.constexpr = ((1 << PLACE_BITS) - 1) << SHIFT
    DTYPE: tl.constexpr = place_dtype(PLACE_BITS)
    return ((packed.to(DTYPE) ^ (place.to(DTYPE) << SHIFT)) & PLACES) == 0
