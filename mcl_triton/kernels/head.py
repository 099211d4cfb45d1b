"""The loss head: from the class scores g and the diversity scores h of a batch to its loss, in one launch.

    L_dis = cross_entropy(g, y)                  with class weights w, label smoothing ε and an ignored index
    L_div = mean over b and i of h[b,i]
    loss  = constant + first · L_dis + second · mean over b and i of r[i] · h[b,i],  r[i] = 1/ξ_i or 1

With p = softmax over the classes, W = Σ_b w[y_b] over the samples that count, and ε' = ε / C:

    L_dis              = 1/W · Σ_b Σ_i −log p[b,i] · t[b,i],     t[b,i] = (1 − ε)·w[y_b]·[i = y_b] + ε'·w[i]
    ∂L_dis / ∂g[b,i]   = 1/W · (p[b,i] · Σ_i' t[b,i'] − t[b,i])
"""

import triton
import triton.language as tl


@triton.jit(debug=True)  # which keeps the assertion
def head_kernel(
    scores,  # g, (B, C)
    diversity,  # h, (B, C)
    targets,  # y, (B,), integers
    class_weights,  # w, (C,)
    offsets,  # first channel of each class, and N: (C + 1,)
    finished,  # how many programs have come to their end, 0 at first
    sums,  # of each program: of L_dis, h and r·h, (3, programs), written
    loss,  # a scalar, written, like the next two
    discriminality,  # L_dis
    mean_diversity,  # L_div
    grad_scores,  # first · ∂L_dis/∂g, (B, C), written; where first is 0, without it
    grad_diversity,  # second · ∂(mean of r·h)/∂h, (C,), written; where second is 0, without it
    targets_stride,
    class_weights_stride,
    batch,
    num_classes,
    ignore_index,
    label_smoothing: tl.float64,  # ε
    constant: tl.float64,
    first: tl.float64,
    second: tl.float64,
    TILE_CLASSES: tl.constexpr,
    TILE_SAMPLES: tl.constexpr,  # at least as many as there are programs
    HAS_CLASS_WEIGHTS: tl.constexpr,
    HAS_SMOOTHING: tl.constexpr,
    HAS_FIRST: tl.constexpr,  # whether L_dis is part of the loss
    HAS_SECOND: tl.constexpr,
    DIVIDES_BY_SIZE: tl.constexpr,  # r = 1/ξ
    SAVES_GRADIENT: tl.constexpr,
):
    dtype: tl.constexpr = scores.dtype.element_ty
    program, num_programs = tl.program_id(0), tl.num_programs(0)
    weight_of_all = weight_of_samples(  # W
        targets, class_weights, targets_stride, class_weights_stride, batch, num_classes, ignore_index,
        TILE_SAMPLES, HAS_CLASS_WEIGHTS, dtype,
    )  # fmt: skip
    weight_of_all = tl.where(weight_of_all == 0.0, float("nan"), weight_of_all)  # 0 / 0, whatever is divided by it
    smoothing = tl.full([], label_smoothing, dtype) / num_classes  # ε'
    share_of_target = 1.0 - tl.full([], label_smoothing, dtype)  # 1 − ε
    sum_of_losses = tl.zeros([TILE_CLASSES], dtype)
    sum_of_h = tl.zeros([TILE_CLASSES], dtype)
    sum_of_rh = tl.zeros([TILE_CLASSES], dtype)
    for sample in range(program, batch, num_programs):
        row = tl.full([], sample, tl.int64) * num_classes
        y = tl.load(targets + tl.full([], sample, tl.int64) * targets_stride).to(tl.int64)
        counts = y != ignore_index
        tl.device_assert((y == ignore_index) | ((y >= 0) & (y < num_classes)), "a target is out of range")
        weight = counts.to(dtype)  # w[y_b]
        if HAS_CLASS_WEIGHTS:
            weight = tl.load(class_weights + y * class_weights_stride, mask=counts, other=0.0).to(dtype)

        # The softmax over the classes, and the sums of h.
        maximum = tl.full([], float("-inf"), dtype)
        total = tl.zeros([], dtype)
        weight_of_classes = tl.zeros([], dtype)  # Σ_i w[i]
        for first_class in range(0, num_classes, TILE_CLASSES):
            classes = first_class + tl.arange(0, TILE_CLASSES)
            is_class = classes < num_classes
            g = tl.load(scores + row + classes, mask=is_class, other=float("-inf"))
            new_maximum = tl.maximum(maximum, tl.max(g, 0))
            reference = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)  # -inf - -inf would be NaN
            total = total * tl.exp(maximum - reference) + tl.sum(tl.exp(g - reference), 0)
            maximum = new_maximum
            h = tl.load(diversity + row + classes, mask=is_class, other=0.0)
            sum_of_h += h
            sum_of_rh += h * inverse_sizes(offsets, classes, is_class, DIVIDES_BY_SIZE, dtype)
            if HAS_SMOOTHING:
                weight_of_classes += tl.sum(
                    weights_of(class_weights, classes, class_weights_stride, is_class, HAS_CLASS_WEIGHTS, dtype), 0
                )
        log_total = tl.log(total)

        of_targets = share_of_target * weight + smoothing * weight_of_classes  # Σ_i t[b,i]
        for first_class in range(0, num_classes, TILE_CLASSES):
            classes = first_class + tl.arange(0, TILE_CLASSES)
            is_class = classes < num_classes
            g = tl.load(scores + row + classes, mask=is_class, other=0.0)
            log_p = (g - maximum) - log_total
            t = tl.where(classes == y, share_of_target * weight, 0.0)
            nll = tl.where(classes == y, -log_p * share_of_target * weight, 0.0)
            if HAS_SMOOTHING:
                w = weights_of(class_weights, classes, class_weights_stride, is_class, HAS_CLASS_WEIGHTS, dtype)
                t += smoothing * w
                nll -= log_p * smoothing * w
            sum_of_losses += tl.where(is_class & counts, nll, 0.0)
            if SAVES_GRADIENT:
                dg = (tl.exp(log_p) * of_targets - t) / weight_of_all
                if HAS_FIRST:
                    dg *= tl.full([], first, dtype)
                tl.store(grad_scores + row + classes, tl.where(counts, dg, 0.0), mask=is_class)

    if SAVES_GRADIENT:
        for first_class in range(program * TILE_CLASSES, num_classes, num_programs * TILE_CLASSES):
            classes = first_class + tl.arange(0, TILE_CLASSES)
            is_class = classes < num_classes
            dh = inverse_sizes(offsets, classes, is_class, DIVIDES_BY_SIZE, dtype) / batch / num_classes
            if HAS_SECOND:
                dh *= tl.full([], second, dtype)
            tl.store(grad_diversity + classes, dh, mask=is_class)

    # The program that comes to its end last adds what all have found, in the order of the programs. Programs exchange
    # their sums by atomic operations, which see each other's results.
    publish(sums + program, tl.sum(sum_of_losses, 0), dtype)
    publish(sums + num_programs + program, tl.sum(sum_of_h, 0), dtype)
    publish(sums + 2 * num_programs + program, tl.sum(sum_of_rh, 0), dtype)
    tl.debug_barrier()
    if tl.atomic_add(finished, 1) == num_programs - 1:
        l_dis = sum_of_programs(sums, 0, num_programs, TILE_SAMPLES) / weight_of_all
        l_div = sum_of_programs(sums, 1, num_programs, TILE_SAMPLES) / batch / num_classes
        result = tl.full([], constant, dtype)
        if HAS_FIRST:
            result += tl.full([], first, dtype) * l_dis
        if HAS_SECOND:
            mean_of_rh = sum_of_programs(sums, 2, num_programs, TILE_SAMPLES) / batch / num_classes
            result += tl.full([], second, dtype) * mean_of_rh
        tl.store(loss, result)
        tl.store(discriminality, l_dis)
        tl.store(mean_diversity, l_div)


@triton.jit
def weight_of_samples(
    targets,
    class_weights,
    targets_stride,
    class_weights_stride,
    batch,
    num_classes,
    ignore_index,
    TILE_SAMPLES: tl.constexpr,
    HAS_CLASS_WEIGHTS: tl.constexpr,
    dtype: tl.constexpr,
):
    """W, the sum of w[y] over the samples that are not ignored; without class weights their number."""
    weight = tl.zeros([TILE_SAMPLES], dtype)
    for first_sample in range(0, batch, TILE_SAMPLES):
        samples = first_sample + tl.arange(0, TILE_SAMPLES)
        y = tl.load(targets + samples.to(tl.int64) * targets_stride, mask=samples < batch, other=0).to(tl.int64)
        counts = (samples < batch) & (y != ignore_index) & (y >= 0) & (y < num_classes)
        weight += weights_of(class_weights, y, class_weights_stride, counts, HAS_CLASS_WEIGHTS, dtype)
    return tl.sum(weight, 0)


@triton.jit
def weights_of(class_weights, classes, stride, exists, HAS_CLASS_WEIGHTS: tl.constexpr, dtype: tl.constexpr):
    """w of some classes, 1 without class weights; 0 where there is none."""
    if HAS_CLASS_WEIGHTS:
        return tl.load(class_weights + classes.to(tl.int64) * stride, mask=exists, other=0.0).to(dtype)
    else:
        return exists.to(dtype)


@triton.jit
def inverse_sizes(offsets, classes, is_class, DIVIDES_BY_SIZE: tl.constexpr, dtype: tl.constexpr):
    """r of some classes: 1/ξ, or 1."""
    if DIVIDES_BY_SIZE:
        end = tl.load(offsets + classes + 1, mask=is_class, other=1)
        return 1.0 / (end - tl.load(offsets + classes, mask=is_class, other=0)).to(dtype)
    else:
        return is_class.to(dtype)


@triton.jit
def publish(place, value, dtype: tl.constexpr):
    """Write a number that other programs read; as an integer, since the interpreter exchanges no others."""
    bits: tl.constexpr = tl.int64 if dtype == tl.float64 else tl.int32
    tl.atomic_xchg(place.to(tl.pointer_type(bits), bitcast=True), value.to(bits, bitcast=True), sem="relaxed")


@triton.jit
def sum_of_programs(sums, which, num_programs, TILE: tl.constexpr):
    """One of the sums over all programs."""
    programs = tl.arange(0, TILE)
    nothing = tl.zeros([TILE], sums.dtype.element_ty)
    found = tl.atomic_add(sums + which * num_programs + programs, nothing, mask=programs < num_programs, sem="relaxed")
    return tl.sum(tl.where(programs < num_programs, found, 0.0), 0)
