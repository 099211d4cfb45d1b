"""Kernels for maps that lie in rows of memory, (B, N, P) with positions next to each other.

A tile is (classes, positions) and as wide as a map, so that the softmax takes one look. The channels of the classes
pass by one after the other; what is kept is a running maximum for each position, whatever the size of the groups.
"""

import triton
import triton.language as tl

from .arithmetic import beats, classes_of_program, compute_dtype, nan_maximum


@triton.jit
def forward_kernel(
    features,  # F
    mask,  # M, (N,) or (B, N)
    offsets,  # first channel of each class, and N: (C + 1,)
    scores,  # g, (B, C), written
    diversity,  # h, (B, C), written
    maxima,  # of each map, (B, N), written
    inverse_sums,  # 1 / Σ exp(F − maximum) of each map, (B, N), written
    finished,  # set to 0 for the loss head, which counts its programs in it
    sample_stride,  # of F, like the next in units of ALIGNMENT elements
    channel_stride,
    mask_sample_stride,
    mask_channel_stride,
    num_classes,
    num_channels,
    NUM_POSITIONS: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    TILE_CLASSES: tl.constexpr,
    TILE_POSITIONS: tl.constexpr,
    CHANNELS_A_STEP: tl.constexpr,
    HAS_MASK: tl.constexpr,
    WANTS_SCORES: tl.constexpr,
    WANTS_DIVERSITY: tl.constexpr,
    SAVES_STATISTICS: tl.constexpr,
    RESETS_FINISHED: tl.constexpr,
):
    if RESETS_FINISHED:
        tl.store(finished, 0, mask=tl.program_id(0) == 0)
    sample, classes, is_class, first_channel, size = classes_of_program(offsets, num_classes, TILE_CLASSES)
    positions = tl.arange(0, TILE_POSITIONS)
    in_map = (positions < NUM_POSITIONS)[None, :]
    features += sample * sample_stride * ALIGNMENT + positions[None, :]
    dtype: tl.constexpr = compute_dtype(features.dtype.element_ty)
    highest_softmax = tl.zeros([TILE_CLASSES, TILE_POSITIONS], dtype)
    highest_attended = tl.full([TILE_CLASSES, TILE_POSITIONS], float("-inf"), dtype)
    for first_of_step in range(0, tl.max(size, 0), CHANNELS_A_STEP):
        maps = ()  # loaded all before the first store, which no load may pass
        for place_in_step in tl.static_range(CHANNELS_A_STEP):
            place = first_of_step + place_in_step
            channel = (first_channel + place).to(tl.int64)
            rows = features + (channel * channel_stride * ALIGNMENT)[:, None]
            maps = maps + (tl.load(rows, mask=(place < size)[:, None] & in_map, other=float("-inf")),)  # noqa: RUF005
        for place_in_step in tl.static_range(CHANNELS_A_STEP):
            place = first_of_step + place_in_step
            is_channel = place < size
            channel = (first_channel + place).to(tl.int64)
            x = maps[place_in_step].to(dtype)
            if WANTS_DIVERSITY:
                maximum = tl.max(x, 1)
                exponential = tl.exp(x - maximum[:, None])
                inverse_sum = 1.0 / tl.sum(exponential, 1)
                softmax = tl.where(is_channel[:, None], exponential * inverse_sum[:, None], 0.0)
                highest_softmax = nan_maximum(highest_softmax, softmax)  # CCMP
                if SAVES_STATISTICS:
                    row = sample * num_channels + channel
                    tl.store(maxima + row, maximum, mask=is_channel)
                    tl.store(inverse_sums + row, inverse_sum, mask=is_channel)
            if WANTS_SCORES:
                if HAS_MASK:  # CWA
                    kept = mask + sample * mask_sample_stride + channel * mask_channel_stride
                    x *= tl.load(kept, mask=is_channel, other=0.0)[:, None]
                x = tl.where(is_channel[:, None], x, float("-inf"))
                highest_attended = nan_maximum(highest_attended, x)  # CCMP
    result = sample * num_classes + classes
    if WANTS_SCORES:
        total = tl.sum(tl.where(in_map, highest_attended, 0.0), 1)
        tl.store(scores + result, total / NUM_POSITIONS, mask=is_class)  # GAP
    if WANTS_DIVERSITY:
        total = tl.sum(tl.where(in_map, highest_softmax, 0.0), 1)
        tl.store(diversity + result, total, mask=is_class)


@triton.jit
def backward_kernel(
    features,  # F
    grad,  # dF, as F, written
    mask,  # M, (N,) or (B, N)
    offsets,  # first channel of each class, and N: (C + 1,)
    grad_scores,  # dg, (B, C)
    grad_diversity,  # dh, (B, C)
    maxima,  # of each map, (B, N), from forward
    inverse_sums,  # 1 / Σ exp(F − maximum) of each map, (B, N), from forward
    grad_loss,  # a scalar that dg and dh are multiplied by
    sample_stride,  # of F, like the next three in units of ALIGNMENT elements
    channel_stride,
    grad_sample_stride,  # of dF
    grad_channel_stride,
    mask_sample_stride,
    mask_channel_stride,
    grad_scores_sample_stride,
    grad_scores_class_stride,
    grad_diversity_sample_stride,
    grad_diversity_class_stride,
    num_classes,
    num_channels,
    NUM_POSITIONS: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    TILE_CLASSES: tl.constexpr,
    TILE_POSITIONS: tl.constexpr,
    CHANNELS_A_STEP: tl.constexpr,
    HAS_MASK: tl.constexpr,
    HAS_GRAD_SCORES: tl.constexpr,
    HAS_GRAD_DIVERSITY: tl.constexpr,
    HAS_GRAD_LOSS: tl.constexpr,
):
    sample, classes, is_class, first_channel, size = classes_of_program(offsets, num_classes, TILE_CLASSES)
    longest = tl.max(size, 0)
    positions = tl.arange(0, TILE_POSITIONS)
    in_map = (positions < NUM_POSITIONS)[None, :]
    features += sample * sample_stride * ALIGNMENT + positions[None, :]
    grad += sample * grad_sample_stride * ALIGNMENT + positions[None, :]
    mask += sample * mask_sample_stride
    maxima += sample * num_channels
    inverse_sums += sample * num_channels
    dtype: tl.constexpr = compute_dtype(features.dtype.element_ty)
    if HAS_GRAD_SCORES:
        grad_scores += sample * grad_scores_sample_stride + classes.to(tl.int64) * grad_scores_class_stride
        dg = tl.load(grad_scores, mask=is_class, other=0.0) / NUM_POSITIONS  # dg / P
        if HAS_GRAD_LOSS:
            dg *= tl.load(grad_loss)
    if HAS_GRAD_DIVERSITY:
        grad_diversity += sample * grad_diversity_sample_stride + classes.to(tl.int64) * grad_diversity_class_stride
        dh = tl.load(grad_diversity, mask=is_class, other=0.0)
        if HAS_GRAD_LOSS:
            dh *= tl.load(grad_loss)

    # The winners W_h and W_g of each position. A softmax is never negative, so some channel beats -1.
    highest_softmax = tl.full([TILE_CLASSES, TILE_POSITIONS], -1.0, dtype)
    highest_attended = tl.full([TILE_CLASSES, TILE_POSITIONS], float("-inf"), dtype)
    winner_of_softmax = tl.zeros([TILE_CLASSES, TILE_POSITIONS], tl.int32)
    winner_of_attended = tl.zeros([TILE_CLASSES, TILE_POSITIONS], tl.int32)
    for first_of_step in range(0, longest, CHANNELS_A_STEP):
        for place_in_step in tl.static_range(CHANNELS_A_STEP):
            place = first_of_step + place_in_step
            is_channel = place < size
            channel = (first_channel + place).to(tl.int64)
            rows = features + (channel * channel_stride * ALIGNMENT)[:, None]
            x = tl.load(rows, mask=is_channel[:, None] & in_map, other=0.0).to(dtype)
            if HAS_GRAD_DIVERSITY:
                maximum = tl.load(maxima + channel, mask=is_channel, other=0.0).to(dtype)
                inverse_sum = tl.load(inverse_sums + channel, mask=is_channel, other=0.0)
                softmax = tl.exp(x - maximum[:, None]) * inverse_sum[:, None]
                wins = is_channel[:, None] & beats(softmax, highest_softmax)
                highest_softmax = tl.where(wins, softmax, highest_softmax)
                winner_of_softmax = tl.where(wins, place, winner_of_softmax)
            if HAS_GRAD_SCORES:
                if HAS_MASK:
                    x *= tl.load(mask + channel * mask_channel_stride, mask=is_channel, other=0.0)[:, None]
                wins = is_channel[:, None] & beats(x, highest_attended)
                highest_attended = tl.where(wins, x, highest_attended)
                winner_of_attended = tl.where(wins, place, winner_of_attended)

    # The second look at the same maps, which the cache still holds.
    for first_of_step in range(0, longest, CHANNELS_A_STEP):
        for place_in_step in tl.static_range(CHANNELS_A_STEP):
            place = first_of_step + place_in_step
            is_channel = place < size
            channel = (first_channel + place).to(tl.int64)
            inside = is_channel[:, None] & in_map
            dx = tl.zeros([TILE_CLASSES, TILE_POSITIONS], dtype)
            if HAS_GRAD_DIVERSITY:
                rows = features + (channel * channel_stride * ALIGNMENT)[:, None]
                x = tl.load(rows, mask=inside, other=0.0).to(dtype)
                maximum = tl.load(maxima + channel, mask=is_channel, other=0.0).to(dtype)
                inverse_sum = tl.load(inverse_sums + channel, mask=is_channel, other=0.0)
                softmax = tl.exp(x - maximum[:, None]) * inverse_sum[:, None]
                won = (winner_of_softmax == place) & in_map
                # dh · w; a channel that wins nowhere has 0 also where dh is infinite
                total = tl.sum(tl.where(won, dh[:, None] * softmax, 0.0), 1)
                dx = softmax * (tl.where(won, dh[:, None], 0.0) - total[:, None])
            if HAS_GRAD_SCORES:
                dg_of_channel = dg
                if HAS_MASK:
                    dg_of_channel *= tl.load(mask + channel * mask_channel_stride, mask=is_channel, other=0.0)
                dx += tl.where(winner_of_attended == place, dg_of_channel[:, None], 0.0)
            rows = grad + (channel * grad_channel_stride * ALIGNMENT)[:, None]
            tl.store(rows, dx.to(grad.dtype.element_ty), mask=inside)
