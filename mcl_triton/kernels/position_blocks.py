"""Forward for maps that are too large for the registers of a program.

First the statistics of the softmax: a program has some maps, and loops over their positions. Then the maxima over the
channels of a class: a program has a block of positions, and leaves sums over that block for g and h, which are added
at last. The axes of a tile: see `arithmetic`.
"""

import triton
import triton.language as tl

from .arithmetic import (
    IN_REVERSE,
    classes_of_tile,
    compute_dtype,
    differs,
    exponential,
    for_rows,
    layer_axis,
    maximum_over_positions,
    nan_maximum,
    over_positions,
    pack,
    positions_of_tile,
    tile_of_program,
    tile_shape,
)


@triton.jit
def statistics_kernel(
    features,  # F
    statistics,  # maximum m and 1 / Σ exp(F − m) of each map, (2, B, N), written
    batch,
    num_channels,
    NUM_POSITIONS: tl.constexpr,
    SAMPLE_STRIDE: tl.constexpr,
    CHANNEL_STRIDE: tl.constexpr,
    POSITION_STRIDE: tl.constexpr,
    LAYERS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMN_AXIS: tl.constexpr,
):
    # m[j] = max_k F[j,k],  1 / Σ_k exp(F[j,k] − m[j])
    sample, tile = tile_of_program(tl.cdiv(num_channels, ROWS))
    channels = tile * ROWS + tl.arange(0, ROWS)
    is_channel = channels < num_channels
    of_rows = for_rows(is_channel, COLUMN_AXIS)
    F = features + sample * SAMPLE_STRIDE + for_rows(channels.to(tl.int64) * CHANNEL_STRIDE, COLUMN_AXIS)
    tile_k = positions_of_tile(LAYERS, COLUMNS, COLUMN_AXIS)
    dtype: tl.constexpr = compute_dtype(features.dtype.element_ty)
    # Of the positions that each thread has seen; all threads' are put together at the end.
    SHAPE: tl.constexpr = tile_shape(1, COLUMNS, ROWS, COLUMN_AXIS)
    maxima = tl.full(SHAPE, float("-inf"), dtype)
    sums = tl.zeros(SHAPE, dtype)
    for first in range(0, NUM_POSITIONS, LAYERS * COLUMNS):
        k = first + tile_k
        x = tl.load(F + k * POSITION_STRIDE, mask=of_rows & (k < NUM_POSITIONS), other=float("-inf")).to(dtype)
        highest = tl.maximum(maxima, tl.max(x, layer_axis(), keep_dims=True))
        reference = finite(highest)
        sums = sums * exponential(maxima, reference) + tl.sum(exponential(x, reference), layer_axis(), keep_dims=True)
        maxima = highest
    m = maximum_over_positions(maxima, COLUMN_AXIS)
    inverse_sum = 1.0 / over_positions(sums * exponential(maxima, for_rows(finite(m), COLUMN_AXIS)), COLUMN_AXIS)
    row = statistics + sample * num_channels + channels
    tl.store(row, m, mask=is_channel)
    tl.store(row + tl.full([], batch, tl.int64) * num_channels, inverse_sum, mask=is_channel)


@triton.jit
def finite(maximum):
    """The maximum, or 0 where it is -inf, since -inf − -inf would be NaN."""
    return tl.where(maximum == float("-inf"), 0.0, maximum)


@triton.jit
def forward_kernel(
    features,  # F
    mask,  # M, (N,) or (B, N)
    offsets,  # first channel of each class, and N: (C + 1,)
    statistics,  # from `statistics_kernel`
    block_sums,  # of each block, P · g and h, (2, blocks, B, C), written
    winners,  # W_h and W_g of each class and position, written
    finished,  # set to 0 for the loss head, which counts its programs in it
    mask_sample_stride,
    mask_channel_stride,
    batch,
    num_classes,
    num_channels,
    NUM_POSITIONS: tl.constexpr,
    SAMPLE_STRIDE: tl.constexpr,
    CHANNEL_STRIDE: tl.constexpr,
    POSITION_STRIDE: tl.constexpr,
    WINNER_CLASS_STRIDE: tl.constexpr,
    WINNER_POSITION_STRIDE: tl.constexpr,
    LAYERS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMN_AXIS: tl.constexpr,
    BLOCKS: tl.constexpr,
    PLACE_BITS: tl.constexpr,
    HAS_MASK: tl.constexpr,
    WANTS_SCORES: tl.constexpr,
    WANTS_DIVERSITY: tl.constexpr,
    SAVES: tl.constexpr,
    RESETS_FINISHED: tl.constexpr,
):
    # s[j,k] = softmax_k F[j,k]
    # g[i] = 1/P · Σ_k max_{j in i} M[j] · F[j,k]
    # h[i] = Σ_k max_{j in i} s[j,k]
    if RESETS_FINISHED:
        tl.store(finished, 0, mask=tl.program_id(0) == 0)
    sample, tile = tile_of_program(tl.cdiv(num_classes, ROWS) * BLOCKS)
    block = tile % BLOCKS
    classes, is_class, first_channel, size = classes_of_tile(offsets, num_classes, tile // BLOCKS, ROWS)
    features += sample * SAMPLE_STRIDE
    mask += sample * mask_sample_stride
    dtype: tl.constexpr = compute_dtype(features.dtype.element_ty)
    SHAPE: tl.constexpr = tile_shape(LAYERS, COLUMNS, ROWS, COLUMN_AXIS)
    k = block * LAYERS * COLUMNS + positions_of_tile(LAYERS, COLUMNS, COLUMN_AXIS)
    in_map = k < NUM_POSITIONS
    highest_s = tl.zeros(SHAPE, dtype)
    highest_a = tl.full(SHAPE, float("-inf"), dtype)
    W_h = tl.zeros(SHAPE, tl.int32)
    W_g = tl.zeros(SHAPE, tl.int32)
    longest = tl.max(size, 0)
    for place in range(0, longest):
        is_channel = place < size
        channel = (first_channel + place).to(tl.int64)
        F = features + for_rows(channel * CHANNEL_STRIDE, COLUMN_AXIS) + k * POSITION_STRIDE
        x = tl.load(F, mask=for_rows(is_channel, COLUMN_AXIS) & in_map, other=float("-inf")).to(dtype)
        if WANTS_DIVERSITY:
            row = sample * num_channels + channel
            m = tl.load(statistics + row, mask=is_channel, other=0.0)
            inverse_sum = tl.load(
                statistics + tl.full([], batch, tl.int64) * num_channels + row, mask=is_channel, other=0.0
            )
            s = exponential(x, for_rows(m, COLUMN_AXIS)) * for_rows(inverse_sum, COLUMN_AXIS)
            highest = nan_maximum(highest_s, s)  # CCMP of s
            W_h = tl.where(differs(highest, highest_s), place, W_h)
            highest_s = highest
        if WANTS_SCORES:
            if HAS_MASK:  # CWA
                x *= for_rows(tl.load(mask + channel * mask_channel_stride, mask=is_channel, other=1.0), COLUMN_AXIS)
            highest = nan_maximum(highest_a, x + 0.0)  # CCMP; -0 + 0 is 0
            W_g = tl.where(differs(highest, highest_a), place, W_g)
            highest_a = highest
    sums = block_sums + (block * tl.full([], batch, tl.int64) + sample) * num_classes + classes
    if WANTS_SCORES:
        tl.store(sums, over_positions(tl.where(in_map, highest_a, 0.0), COLUMN_AXIS), mask=is_class)
    if WANTS_DIVERSITY:
        h = over_positions(tl.where(in_map, highest_s, 0.0), COLUMN_AXIS)
        tl.store(sums + BLOCKS * tl.full([], batch, tl.int64) * num_classes, h, mask=is_class)
    if SAVES:
        packed = pack(W_h, W_g, PLACE_BITS).to(winners.dtype.element_ty)
        winners += sample * num_classes * NUM_POSITIONS + k * WINNER_POSITION_STRIDE
        winners += for_rows(classes.to(tl.int64) * WINNER_CLASS_STRIDE, COLUMN_AXIS)
        SIDE_BY_SIDE: tl.constexpr = 4 if WINNER_POSITION_STRIDE == 1 else 1
        winners = tl.max_contiguous(winners, [SIDE_BY_SIDE, 1, 1] if IN_REVERSE else [1, 1, SIDE_BY_SIDE])
        tl.store(winners, packed, mask=for_rows(is_class, COLUMN_AXIS) & in_map)


@triton.jit
def sum_kernel(
    block_sums,  # from `forward_kernel`
    scores,  # g, (B, C), written
    diversity,  # h, (B, C), written
    num_results,  # B · C
    NUM_POSITIONS: tl.constexpr,
    BLOCKS: tl.constexpr,
    TILE_BLOCKS: tl.constexpr,
    TILE_RESULTS: tl.constexpr,
    WANTS_SCORES: tl.constexpr,
    WANTS_DIVERSITY: tl.constexpr,
):
    # g[i] and h[i], the sums over all blocks
    results = tl.program_id(0).to(tl.int64) * TILE_RESULTS + tl.arange(0, TILE_RESULTS)
    is_result = results < num_results
    if WANTS_SCORES:
        g = sum_of_blocks(block_sums, results, num_results, BLOCKS, TILE_BLOCKS) / NUM_POSITIONS  # GAP
        tl.store(scores + results, g, mask=is_result)
    if WANTS_DIVERSITY:
        of_diversity = block_sums + tl.full([], BLOCKS, tl.int64) * num_results
        h = sum_of_blocks(of_diversity, results, num_results, BLOCKS, TILE_BLOCKS)
        tl.store(diversity + results, h, mask=is_result)


@triton.jit
def sum_of_blocks(block_sums, results, num_results, BLOCKS: tl.constexpr, TILE_BLOCKS: tl.constexpr):
    """The sums over blocks of some results, always in the same order."""
    total = tl.zeros(results.shape, block_sums.dtype.element_ty)
    for first in range(0, BLOCKS, TILE_BLOCKS):
        blocks = first + tl.arange(0, TILE_BLOCKS)[:, None]
        inside = (blocks < BLOCKS) & (results < num_results)[None, :]
        total += tl.sum(tl.load(block_sums + blocks.to(tl.int64) * num_results + results, mask=inside, other=0.0), 0)
    return total
