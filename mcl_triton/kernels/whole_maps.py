"""Forward for maps that fit the registers of a program, in any layout.

A tile is as wide as a map, so that the softmax takes one look. The rows of a tile are classes next to each other, whose
channels pass by one after the other; or, where groups are large, neighbouring channels of one piece of a class. What is
kept is a running maximum for each position, whatever the size of the groups. The axes of a tile: see `arithmetic`.
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
    maximum_over_positions,
    nan_maximum,
    over_positions,
    pack,
    place_dtype,
    positions_of_tile,
    row_axis_of,
    tile_of_program,
    tile_shape,
    unpack,
)


@triton.jit
def forward_kernel(
    features,  # F
    mask,  # M, (N,) or (B, N)
    offsets,  # first channel of each class, and N: (C + 1,)
    pieces,  # see `tables`
    bundles,  # first piece of each program, and the number of pieces, see `tables`
    scores,  # g, (B, C), written
    diversity,  # h, (B, C), written
    statistics,  # maximum m and 1 / Σ exp(F − m) of each map, (2, B, N), written
    winners,  # W_h and W_g of each class and position, see `winners`, written
    part_maxima,  # of the pieces of split classes, max s and max M · F at each position, (2, B, parts, P), written
    part_winners,  # likewise, as in winners, (B, parts, P), written
    finished,  # set to 0 for the loss head, which counts its programs in it
    mask_sample_stride,
    mask_channel_stride,
    batch,
    num_classes,
    num_channels,
    num_programs,  # of a sample
    num_parts,
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
    TILES_A_PROGRAM: tl.constexpr,
    IN_PIECES: tl.constexpr,
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
    sample, program = tile_of_program(num_programs)
    features += sample * SAMPLE_STRIDE
    mask += sample * mask_sample_stride
    statistics += sample * num_channels
    winners += sample * num_classes * NUM_POSITIONS
    dtype: tl.constexpr = compute_dtype(features.dtype.element_ty)
    SHAPE: tl.constexpr = tile_shape(LAYERS, COLUMNS, ROWS, COLUMN_AXIS)
    k = positions_of_tile(LAYERS, COLUMNS, COLUMN_AXIS)
    in_map = k < NUM_POSITIONS
    if IN_PIECES:
        first_tile = tl.load(bundles + program)
        end_tile = tl.load(bundles + program + 1)
    else:
        first_tile = program * TILES_A_PROGRAM
        end_tile = tl.minimum(first_tile + TILES_A_PROGRAM, tl.cdiv(num_classes, ROWS))
    for tile in range(first_tile, end_tile):
        if IN_PIECES:  # the rows are channels next to each other
            classes, is_class, first_place, first_channel, size, part = piece_of_tile(pieces, offsets, tile, ROWS)
            STEP: tl.constexpr = ROWS
        else:  # the rows are classes, and always begin with their first channel
            classes, is_class, first_channel, size = classes_of_tile(offsets, num_classes, tile, ROWS)
            first_place = tl.zeros([ROWS], tl.int32)
            STEP: tl.constexpr = 1
        highest_s = tl.zeros(SHAPE, dtype)
        highest_a = tl.full(SHAPE, float("-inf"), dtype)
        W_h = tl.zeros(SHAPE, tl.int32) + for_rows(first_place, COLUMN_AXIS)
        W_g = W_h
        steps = tl.max(size, 0)
        for step in range(0, steps):
            is_channel = step < size
            channel = (first_channel + step * STEP).to(tl.int64)
            place = step
            if IN_PIECES:
                place = for_rows(first_place + step * STEP, COLUMN_AXIS)
            F = features + for_rows(channel * CHANNEL_STRIDE, COLUMN_AXIS) + k * POSITION_STRIDE
            x = tl.load(F, mask=for_rows(is_channel, COLUMN_AXIS) & in_map, other=float("-inf")).to(dtype)
            if WANTS_DIVERSITY:
                m = maximum_over_positions(x, COLUMN_AXIS)
                m = tl.where(is_channel, m, 0.0) if ROWS > 1 else m
                e = exponential(x, for_rows(m, COLUMN_AXIS))
                inverse_sum = 1.0 / over_positions(e, COLUMN_AXIS)
                if SAVES:
                    tl.store(statistics + channel, m, mask=is_channel)
                    tl.store(
                        statistics + tl.full([], batch, tl.int64) * num_channels + channel, inverse_sum, mask=is_channel
                    )
                inverse_sum = tl.where(is_channel, inverse_sum, 0.0) if ROWS > 1 else inverse_sum
                highest = nan_maximum(highest_s, e * for_rows(inverse_sum, COLUMN_AXIS))  # CCMP of s
                W_h = tl.where(differs(highest, highest_s), place, W_h)
                highest_s = highest
            if WANTS_SCORES:
                if HAS_MASK:  # CWA
                    M = tl.load(mask + channel * mask_channel_stride, mask=is_channel, other=1.0)
                    x *= for_rows(M, COLUMN_AXIS)
                highest = nan_maximum(highest_a, x + 0.0)  # CCMP; -0 + 0 is 0
                W_g = tl.where(differs(highest, highest_a), place, W_g)
                highest_a = highest
        if IN_PIECES:  # of the rows
            highest_s, W_h = first_highest(highest_s, W_h, row_axis_of(COLUMN_AXIS))
            highest_a, W_g = first_highest(highest_a, W_g, row_axis_of(COLUMN_AXIS))
        packed = pack(W_h, W_g, PLACE_BITS).to(winners.dtype.element_ty)
        of_class = for_rows(classes.to(tl.int64), COLUMN_AXIS)
        inside = for_rows(is_class, COLUMN_AXIS) & in_map
        if WANTS_SCORES:
            g = over_positions(tl.where(in_map, highest_a, 0.0), COLUMN_AXIS) / NUM_POSITIONS  # GAP
            tl.store(scores + sample * num_classes + classes, g, mask=is_class)
        if WANTS_DIVERSITY:
            h = over_positions(highest_s, COLUMN_AXIS)
            tl.store(diversity + sample * num_classes + classes, h, mask=is_class)
        if SAVES:
            of_class = winners + of_class * WINNER_CLASS_STRIDE + k * WINNER_POSITION_STRIDE
            # Threads that each store what lies side by side would spoil the layout of all the rest.
            SIDE_BY_SIDE: tl.constexpr = 4 if WINNER_POSITION_STRIDE == 1 else 1
            of_class = tl.max_contiguous(of_class, [SIDE_BY_SIDE, 1, 1] if IN_REVERSE else [1, 1, SIDE_BY_SIDE])
            tl.store(of_class, packed, mask=inside)
        if IN_PIECES:  # noqa: SIM102, a constant, and what is known only on the GPU
            if part >= 0:
                at = (sample * num_parts + part) * NUM_POSITIONS + k
                tl.store(part_maxima + at, highest_s, mask=in_map)
                tl.store(
                    part_maxima + tl.full([], batch, tl.int64) * num_parts * NUM_POSITIONS + at, highest_a, mask=in_map
                )
                tl.store(part_winners + at, packed, mask=in_map)


@triton.jit
def piece_of_tile(pieces, offsets, tile, ROWS: tl.constexpr):
    """The class of a piece, and whether the piece is all of it, (1,); the number of the part, or -1, comes last.

    Between them, for each row of the tile: its first place within the class, its first channel, its number of channels.
    """
    piece = pieces + 4 * tile
    class_of_piece = tl.load(piece)
    rows = tl.arange(0, ROWS)
    first_channel = tl.load(piece + 1) + rows
    size = tl.cdiv(tl.load(piece + 2) - rows, ROWS)
    first_place = first_channel - tl.load(offsets + class_of_piece)
    part = tl.load(piece + 3)
    one = tl.zeros([1], tl.int32)
    return one + class_of_piece, one + part < 0, first_place, first_channel, size, part


@triton.jit
def first_highest(values, places, AXIS: tl.constexpr):
    """Along an axis the highest value, and its lowest place; NaN is higher than any number."""
    highest = tl.reduce(values, AXIS, nan_maximum, keep_dims=True)
    is_highest = (values == highest) | (values != values)
    return highest, tl.min(tl.where(is_highest, places, 2147483647), AXIS, keep_dims=True)


@triton.jit
def combine_kernel(
    splits,  # of each split class: the class, its first part and its number of parts, (splits, 3)
    part_maxima,  # from forward
    part_winners,
    scores,  # g, (B, C), written
    diversity,  # h, (B, C), written
    winners,  # W_h and W_g of each class and position, written
    batch,
    num_classes,
    num_splits,
    num_parts,
    NUM_POSITIONS: tl.constexpr,
    WINNER_CLASS_STRIDE: tl.constexpr,
    WINNER_POSITION_STRIDE: tl.constexpr,
    TILE_PARTS: tl.constexpr,
    TILE_POSITIONS: tl.constexpr,
    PLACE_BITS: tl.constexpr,
    WANTS_SCORES: tl.constexpr,
    WANTS_DIVERSITY: tl.constexpr,
    SAVES: tl.constexpr,
):
    # Of the parts of a class, in the order of their channels: max s and max M · F, and the first channels that have it.
    sample, split = tile_of_program(num_splits)
    of_class = tl.load(splits + 3 * split).to(tl.int64)
    first_part = tl.load(splits + 3 * split + 1)
    end_part = first_part + tl.load(splits + 3 * split + 2)
    attended = part_maxima + tl.full([], batch, tl.int64) * num_parts * NUM_POSITIONS
    dtype: tl.constexpr = part_maxima.dtype.element_ty
    score_at = tl.zeros([1, TILE_POSITIONS], dtype)
    diversity_at = tl.zeros([1, TILE_POSITIONS], dtype)
    for first_position in range(0, NUM_POSITIONS, TILE_POSITIONS):
        k = first_position + tl.arange(0, TILE_POSITIONS)[None, :]
        in_map = k < NUM_POSITIONS
        highest_s = tl.zeros([1, TILE_POSITIONS], dtype)
        highest_a = tl.full([1, TILE_POSITIONS], float("-inf"), dtype)
        W_h = tl.zeros([1, TILE_POSITIONS], place_dtype(PLACE_BITS))
        W_g = W_h
        for first in range(first_part, end_part, TILE_PARTS):
            part = first + tl.arange(0, TILE_PARTS)[:, None]
            inside = (part < end_part) & in_map
            at = (sample * num_parts + part) * NUM_POSITIONS + k
            place_h, place_g = unpack(tl.load(part_winners + at, mask=inside, other=0), PLACE_BITS)
            if WANTS_DIVERSITY:
                s = tl.load(part_maxima + at, mask=inside, other=float("-inf"))
                s, place = first_highest(s, place_h, 0)
                highest = nan_maximum(highest_s, s)
                W_h = tl.where(differs(highest, highest_s), place, W_h)
                highest_s = highest
            if WANTS_SCORES:
                a = tl.load(attended + at, mask=inside, other=float("-inf"))
                a, place = first_highest(a, place_g, 0)
                highest = nan_maximum(highest_a, a)
                W_g = tl.where(differs(highest, highest_a), place, W_g)
                highest_a = highest
        score_at += tl.where(in_map, highest_a, 0.0)
        diversity_at += tl.where(in_map, highest_s, 0.0)
        if SAVES:
            at = winners + sample * num_classes * NUM_POSITIONS + of_class * WINNER_CLASS_STRIDE
            packed = pack(W_h, W_g, PLACE_BITS).to(winners.dtype.element_ty)
            tl.store(at + k.to(tl.int64) * WINNER_POSITION_STRIDE, packed, mask=in_map)
    result = sample * num_classes + of_class
    if WANTS_SCORES:
        tl.store(scores + result, tl.sum(score_at) / NUM_POSITIONS)
    if WANTS_DIVERSITY:
        tl.store(diversity + result, tl.sum(diversity_at))
