"""Kernels for maps of any size and strides, `channels_last` above all: a program loops over blocks of positions.

A tile is (positions, channels) with all channels of a few neighbouring classes, as they lie in `channels_last` memory,
so that loads and stores are wide. For the maximum over the channels of a class (CCMP) they are spread to slots:
TILE_PLACES to each class, a power of two, of which the last ones may stay empty.
"""

import triton
import triton.language as tl

from .arithmetic import compute_dtype, nan_maximum, tile_of_program


@triton.jit
def forward_kernel(
    features,  # F
    mask,  # M, (N,) or (B, N)
    offsets,  # first channel of each class, and N: (C + 1,)
    tiles,  # first class of each tile, and C: (tiles of a sample + 1,)
    scores,  # g, (B, C), written
    diversity,  # h, (B, C), written
    maxima,  # of each map, (B, N), written
    inverse_sums,  # 1 / Σ exp(F − maximum) of each map, (B, N), written
    finished,  # set to 0 for the loss head, which counts its programs in it
    sample_stride,  # of F, see `map_pointers`
    channel_stride,
    position_stride,
    mask_sample_stride,
    mask_channel_stride,
    num_classes,
    num_channels,
    num_positions,
    num_tiles,
    ALIGNMENT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    TILE_POSITIONS: tl.constexpr,
    TILE_CLASSES: tl.constexpr,
    TILE_PLACES: tl.constexpr,
    IS_SPREAD: tl.constexpr,
    HAS_MASK: tl.constexpr,
    WANTS_SCORES: tl.constexpr,
    WANTS_DIVERSITY: tl.constexpr,
    SAVES_STATISTICS: tl.constexpr,
    RESETS_FINISHED: tl.constexpr,
):
    if RESETS_FINISHED:
        tl.store(finished, 0, mask=tl.program_id(0) == 0)
    SLOTS: tl.constexpr = TILE_CLASSES * TILE_PLACES
    dtype: tl.constexpr = compute_dtype(features.dtype.element_ty)
    sample, tile = tile_of_program(num_tiles)
    classes, is_class, start, size, first_channel, end_channel = classes_of_tile(
        offsets, tiles, tile, ALIGNMENT, CHANNELS_LAST, TILE_CLASSES
    )
    channels = first_channel + tl.arange(0, SLOTS)
    is_channel = channels < end_channel
    row = sample * num_channels + first_channel
    maps = map_pointers(features, sample, channels, sample_stride, channel_stride, ALIGNMENT, CHANNELS_LAST)
    is_slot, source = slots_of_classes(start, size, TILE_CLASSES, TILE_PLACES)

    if WANTS_DIVERSITY:  # the statistics of the softmax, block by block
        maximum = tl.full([SLOTS], float("-inf"), dtype)
        total = tl.zeros([SLOTS], dtype)
        for first_position in range(0, num_positions, TILE_POSITIONS):
            positions = first_position + tl.arange(0, TILE_POSITIONS)
            inside = (positions < num_positions)[:, None] & is_channel[None, :]
            x = tl.load(
                at_positions(maps, positions, position_stride, ALIGNMENT, CHANNELS_LAST),
                mask=inside,
                other=float("-inf"),
            ).to(dtype)
            new_maximum = tl.maximum(maximum, tl.max(x, 0))
            reference = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)  # -inf - -inf would be NaN
            total = total * tl.exp(maximum - reference) + tl.sum(tl.exp(x - reference[None, :]), 0)
            maximum = new_maximum
        inverse_sum = 1.0 / total
        if SAVES_STATISTICS:
            tl.store(maxima + row + tl.arange(0, SLOTS), maximum, mask=is_channel)
            tl.store(inverse_sums + row + tl.arange(0, SLOTS), inverse_sum, mask=is_channel)
        maximum = spread(maximum, source, 0, IS_SPREAD)
        inverse_sum = spread(inverse_sum, source, 0, IS_SPREAD)
    if HAS_MASK:
        kept = mask + sample * mask_sample_stride + (first_channel + source).to(tl.int64) * mask_channel_stride
        kept = tl.load(kept, mask=is_slot, other=0.0)

    diversity_at = tl.zeros([TILE_POSITIONS, TILE_CLASSES], dtype)
    score_at = tl.zeros([TILE_POSITIONS, TILE_CLASSES], dtype)
    for first_position in range(0, num_positions, TILE_POSITIONS):
        positions = first_position + tl.arange(0, TILE_POSITIONS)
        in_map = (positions < num_positions)[:, None]
        x = tl.load(
            at_positions(maps, positions, position_stride, ALIGNMENT, CHANNELS_LAST),
            mask=in_map & is_channel[None, :],
            other=0.0,
        )
        x = spread(x, source, 1, IS_SPREAD).to(dtype)
        if WANTS_DIVERSITY:
            softmax = tl.exp(x - maximum[None, :]) * inverse_sum[None, :]
            softmax = tl.where(is_slot[None, :], softmax, 0.0)
            softmax = tl.reshape(softmax, [TILE_POSITIONS, TILE_CLASSES, TILE_PLACES])
            diversity_at += tl.where(in_map, tl.reduce(softmax, 2, nan_maximum), 0.0)  # CCMP
        if WANTS_SCORES:
            if HAS_MASK:
                x *= kept[None, :]  # CWA
            x = tl.where(is_slot[None, :], x, float("-inf"))
            x = tl.reshape(x, [TILE_POSITIONS, TILE_CLASSES, TILE_PLACES])
            score_at += tl.where(in_map, tl.reduce(x, 2, nan_maximum), 0.0)  # CCMP
    result = sample * num_classes + classes
    if WANTS_SCORES:
        tl.store(scores + result, tl.sum(score_at, 0) / num_positions, mask=is_class)  # GAP
    if WANTS_DIVERSITY:
        tl.store(diversity + result, tl.sum(diversity_at, 0), mask=is_class)


@triton.jit
def backward_kernel(
    features,  # F
    grad,  # dF, as F, written
    mask,  # M, (N,) or (B, N)
    offsets,  # first channel of each class, and N: (C + 1,)
    tiles,  # first class of each tile, and C: (tiles of a sample + 1,)
    grad_scores,  # dg, (B, C)
    grad_diversity,  # dh, (B, C)
    maxima,  # of each map, (B, N), from forward
    inverse_sums,  # 1 / Σ exp(F − maximum) of each map, (B, N), from forward
    grad_loss,  # a scalar that dg and dh are multiplied by
    sample_stride,  # of F, see `map_pointers`
    channel_stride,
    position_stride,
    grad_sample_stride,  # of dF
    grad_channel_stride,
    grad_position_stride,
    mask_sample_stride,
    mask_channel_stride,
    grad_scores_sample_stride,
    grad_scores_class_stride,
    grad_diversity_sample_stride,
    grad_diversity_class_stride,
    num_classes,
    num_channels,
    num_positions,
    num_tiles,
    ALIGNMENT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    TILE_POSITIONS: tl.constexpr,
    TILE_CLASSES: tl.constexpr,
    TILE_PLACES: tl.constexpr,
    IS_SPREAD: tl.constexpr,
    HAS_MASK: tl.constexpr,
    HAS_GRAD_SCORES: tl.constexpr,
    HAS_GRAD_DIVERSITY: tl.constexpr,
    HAS_GRAD_LOSS: tl.constexpr,
):
    SLOTS: tl.constexpr = TILE_CLASSES * TILE_PLACES
    dtype: tl.constexpr = compute_dtype(features.dtype.element_ty)
    sample, tile = tile_of_program(num_tiles)
    classes, is_class, start, size, first_channel, end_channel = classes_of_tile(
        offsets, tiles, tile, ALIGNMENT, CHANNELS_LAST, TILE_CLASSES
    )
    channels = first_channel + tl.arange(0, SLOTS)
    is_channel = channels < end_channel
    maps = map_pointers(features, sample, channels, sample_stride, channel_stride, ALIGNMENT, CHANNELS_LAST)
    is_slot, source = slots_of_classes(start, size, TILE_CLASSES, TILE_PLACES)
    target = slots_of_channels(start, size, is_class, TILE_CLASSES, TILE_PLACES)
    class_of_slot = tl.reshape(tl.broadcast_to(classes[:, None], [TILE_CLASSES, TILE_PLACES]), [SLOTS]).to(tl.int64)
    if HAS_GRAD_SCORES:
        dg = grad_scores + sample * grad_scores_sample_stride + class_of_slot * grad_scores_class_stride
        dg = tl.load(dg, mask=is_slot, other=0.0) / num_positions  # dg / P
        if HAS_GRAD_LOSS:
            dg *= tl.load(grad_loss)
        if HAS_MASK:
            kept = mask + sample * mask_sample_stride + (first_channel + source).to(tl.int64) * mask_channel_stride
            kept = tl.load(kept, mask=is_slot, other=0.0)

    if HAS_GRAD_DIVERSITY:
        dh = grad_diversity + sample * grad_diversity_sample_stride + class_of_slot * grad_diversity_class_stride
        dh = tl.load(dh, mask=is_slot, other=0.0)
        if HAS_GRAD_LOSS:
            dh *= tl.load(grad_loss)
        row = sample * num_channels + first_channel + source
        maximum = tl.load(maxima + row, mask=is_slot, other=0.0).to(dtype)
        inverse_sum = tl.load(inverse_sums + row, mask=is_slot, other=0.0)
        total_at = tl.zeros([TILE_POSITIONS, SLOTS], dtype)
        for first_position in range(0, num_positions, TILE_POSITIONS):
            positions = first_position + tl.arange(0, TILE_POSITIONS)
            in_map = (positions < num_positions)[:, None]
            x = tl.load(
                at_positions(maps, positions, position_stride, ALIGNMENT, CHANNELS_LAST),
                mask=in_map & is_channel[None, :],
                other=0.0,
            )
            x = spread(x, source, 1, IS_SPREAD).to(dtype)
            softmax = tl.exp(x - maximum[None, :]) * inverse_sum[None, :]
            won = wins(tl.where(is_slot[None, :], softmax, -1.0), TILE_POSITIONS, TILE_CLASSES, TILE_PLACES)
            total_at += tl.where(in_map & won & is_slot[None, :], dh[None, :] * softmax, 0.0)
        total = tl.sum(total_at, 0)  # dh · w; a channel that wins nowhere has 0 also where dh is infinite

    grad_maps = map_pointers(grad, sample, channels, grad_sample_stride, grad_channel_stride, ALIGNMENT, CHANNELS_LAST)
    for first_position in range(0, num_positions, TILE_POSITIONS):
        positions = first_position + tl.arange(0, TILE_POSITIONS)
        in_map = (positions < num_positions)[:, None]
        inside = in_map & is_channel[None, :]
        x = tl.load(
            at_positions(maps, positions, position_stride, ALIGNMENT, CHANNELS_LAST),
            mask=inside,
            other=0.0,
        )
        x = spread(x, source, 1, IS_SPREAD).to(dtype)
        dx = tl.zeros([TILE_POSITIONS, SLOTS], dtype)
        if HAS_GRAD_DIVERSITY:
            softmax = tl.exp(x - maximum[None, :]) * inverse_sum[None, :]
            won = wins(tl.where(is_slot[None, :], softmax, -1.0), TILE_POSITIONS, TILE_CLASSES, TILE_PLACES)
            dx = softmax * (tl.where(won, dh[None, :], 0.0) - total[None, :])
        if HAS_GRAD_SCORES:
            dg_of_slot = dg
            if HAS_MASK:
                x *= kept[None, :]
                dg_of_slot *= kept
            won = wins(tl.where(is_slot[None, :], x, float("-inf")), TILE_POSITIONS, TILE_CLASSES, TILE_PLACES)
            dx += tl.where(won, dg_of_slot[None, :], 0.0)
        dx = spread(dx.to(grad.dtype.element_ty), target, 1, IS_SPREAD)
        tl.store(at_positions(grad_maps, positions, grad_position_stride, ALIGNMENT, CHANNELS_LAST), dx, mask=inside)


@triton.jit
def classes_of_tile(
    offsets, tiles, tile, ALIGNMENT: tl.constexpr, CHANNELS_LAST: tl.constexpr, TILE_CLASSES: tl.constexpr
):
    """The classes of a tile; for each whether it is one, its first channel in the tile, its number of channels (ξ).

    Then the tile's first channel and the one after its last. In `channels_last` tiles begin at multiples of ALIGNMENT.
    """
    first_class = tl.load(tiles + tile)
    end_class = tl.load(tiles + tile + 1)
    first_channel = tl.load(offsets + first_class)
    end_channel = tl.load(offsets + end_class)
    if CHANNELS_LAST:
        first_channel = tl.multiple_of(first_channel, ALIGNMENT)
        end_channel = tl.multiple_of(end_channel, ALIGNMENT)
    classes = first_class + tl.arange(0, TILE_CLASSES)
    is_class = classes < end_class
    start = tl.load(offsets + classes, mask=is_class, other=0)
    size = tl.load(offsets + classes + 1, mask=is_class, other=0) - start
    return classes, is_class, start - first_channel, size, first_channel, end_channel


@triton.jit
def slots_of_classes(start, size, TILE_CLASSES: tl.constexpr, TILE_PLACES: tl.constexpr):
    """For each slot whether there is such a channel, and which of the tile's channels it is."""
    places = tl.broadcast_to(tl.arange(0, TILE_PLACES)[None, :], [TILE_CLASSES, TILE_PLACES])
    is_slot = places < size[:, None]
    source = tl.where(is_slot, start[:, None] + places, 0)
    SLOTS: tl.constexpr = TILE_CLASSES * TILE_PLACES
    return tl.reshape(is_slot, [SLOTS]), tl.reshape(source, [SLOTS])


@triton.jit
def slots_of_channels(start, size, is_class, TILE_CLASSES: tl.constexpr, TILE_PLACES: tl.constexpr):
    """For each of the tile's channels its slot; some slot for those beyond the last class, which nobody stores."""
    SLOTS: tl.constexpr = TILE_CLASSES * TILE_PLACES
    channel = tl.arange(0, SLOTS)[:, None]
    is_past = (channel >= (start + size)[None, :]) & is_class[None, :]
    class_in_tile = tl.sum(is_past.to(tl.int32), 1)
    place = tl.arange(0, SLOTS) - tl.sum(tl.where(is_past, size[None, :], 0), 1)
    slot = class_in_tile * TILE_PLACES + place
    return tl.where(slot < SLOTS, slot, 0)


@triton.jit
def spread(values, source, AXIS: tl.constexpr, IS_SPREAD: tl.constexpr):
    """``values[source]``, or ``values[:, source]`` for AXIS 1; the values themselves where the source is in order."""
    if IS_SPREAD:
        if AXIS == 1:
            source = tl.broadcast_to(source[None, :], values.shape)
        values = tl.gather(values, source, AXIS)
    return values


@triton.jit
def wins(values, TILE_POSITIONS: tl.constexpr, TILE_CLASSES: tl.constexpr, TILE_PLACES: tl.constexpr):
    """Whether each slot has the highest value of its class, as the first of equals; NaN is higher than any number."""
    values = tl.reshape(values, [TILE_POSITIONS, TILE_CLASSES, TILE_PLACES])
    highest = tl.reduce(values, 2, nan_maximum)
    is_highest = (values == highest[:, :, None]) | (values != values)
    place = tl.arange(0, TILE_PLACES)[None, None, :]
    winner = tl.min(tl.where(is_highest, place, TILE_PLACES), 2)
    return tl.reshape(place == winner[:, :, None], [TILE_POSITIONS, TILE_CLASSES * TILE_PLACES])


@triton.jit
def map_pointers(
    maps,
    sample,
    channels,
    sample_stride,
    channel_stride,
    ALIGNMENT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """Pointers to the first position of the channels, (1, channels).

    The sample stride comes in units of ALIGNMENT elements, and so does the channel stride but in `channels_last`, where
    it is 1.
    """
    maps += sample * sample_stride * ALIGNMENT
    if CHANNELS_LAST:
        return maps + channels[None, :]
    return maps + channels.to(tl.int64)[None, :] * channel_stride * ALIGNMENT


@triton.jit
def at_positions(maps, positions, position_stride, ALIGNMENT: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Pointers (positions, channels); in `channels_last` the position stride comes in units of ALIGNMENT elements."""
    offsets = positions.to(tl.int64)[:, None] * position_stride
    if CHANNELS_LAST:
        offsets *= ALIGNMENT
    return maps + offsets
