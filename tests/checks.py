"""Helpers of the tests of the pooling: features of every kind and layout, and the comparison with the oracle.

The rule: element by element, the error against the oracle in float64 is at most ``FACTOR`` times that of the oracle's
own formula in the dtype that is computed in, plus ``ROUNDINGS`` units of rounding of the terms that the element is made
of.
Gradients of bfloat16 and float16 are computed in float32 and rounded once, half a unit.
"""

import torch
from hypothesis import strategies as st
from torch import Tensor

from mcl_triton import ChannelGroups, channel_pool
from reference.formulas import paper as oracle

FACTOR = 2.0
ROUNDINGS = 4.0

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
MASKS = ["none", "shared", "per sample"]
INTERLEAVED = [3, 1, 3, 7, 1, 2, 3]  # classes of one size are not neighbours


# Features


def make_features(kind: str, shape: tuple[int, int, int, int], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Features of a kind that has its own trouble, (B, N, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    rows = torch.rand(shape[:2], generator=generator, dtype=torch.float64)[..., None, None]
    if kind == "signed":
        features = normal
    elif kind == "negative":
        features = -normal.abs() - 0.1
    elif kind == "relu":  # with a third of the channels dead: some zero, some constant, whose softmax ties exactly
        features = torch.where(rows < 0.2, 0.0, normal.relu())
        features = torch.where((rows > 0.2) & (rows < 0.35), (rows * 64).ceil() / 4, features)
    elif kind == "integers":
        features = normal.round().clamp(-2, 2)
    elif kind == "few values":  # nearly every position has several maxima, and many channels are alike
        features = (normal > 0.8).double() * 3
    elif kind == "signed zeros":
        features = torch.where(normal > 1, normal, torch.where(normal > 0, 0.0, -0.0))
    elif kind == "copies":  # of a few rows, plus constants: the softmax ties exactly, channel by channel
        which = (rows * 1000).long() % 3
        features = (normal[:, :1] * 8).round() / 4 + (rows * 7).round()
        features = torch.where(which == 0, features, (normal[:, -1:] * 8).round() / 4 + (rows * 3).round())
        features = torch.where(which == 1, (rows * 5).round(), features)
    elif kind == "constant":
        features = torch.full(shape, 1.5, dtype=torch.float64)
    elif kind == "subnormal":  # between zero and the smallest normal number
        features = normal * {torch.float64: 1e-310, torch.float16: 1e-6}.get(dtype, 1e-40)
    elif kind == "smallest":  # neighbouring numbers at the end of the range
        smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
        features = normal.mul(2).round() * smallest
    elif kind == "large":
        features = normal.clamp(-4, 4) * 1.5e4
    elif kind == "huge":
        features = normal * {torch.float64: 1e300, torch.float16: 1e4}.get(dtype, 1e30)
    elif kind == "wide":  # large and small in one group
        features = normal * 10 ** (rows * (7 if dtype == torch.float16 else 20) - 3)
    else:
        raise ValueError(kind)
    return features.to(dtype)


KINDS = [
    *("signed", "negative", "relu", "integers", "few values", "signed zeros", "copies", "constant"),
    *("subnormal", "smallest", "large", "huge", "wide"),
]


# In these, rows that hold the same values in another order tie in exact arithmetic only: the softmax has near-ties
# everywhere, and the gradient is compared for the scores. "copies" and "relu" have the exact ties of the softmax.
NEAR_TIED = {(kind, dtype) for kind in ("integers", "few values", "signed zeros") for dtype in DTYPES}
NEAR_TIED |= {("subnormal", torch.float16), ("smallest", torch.float16)}  # differences near float32's rounding of 1


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def grads_of(kind: str, dtype: torch.dtype) -> str:
    return "scores" if (kind, dtype) in NEAR_TIED else "both"


def lay_out(features: Tensor, layout: str) -> Tensor:
    """The same values in another memory layout; `expanded` repeats the first sample, `rows` joins H and W."""
    batch, channels, height, width = features.shape
    if layout == "contiguous":
        return features.contiguous()
    if layout == "channels_last":
        return features.contiguous(memory_format=torch.channels_last)
    if layout == "rows":
        return features.flatten(2)
    if layout == "rows, channels last":
        return features.flatten(2).transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "transposed map":
        return features.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "batch last":
        return features.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    if layout == "sliced map":
        larger = features.new_full((batch, channels, height + 3, 2 * width + 1), 7.0)
        view = larger[:, :, 2 : 2 + height, 1 : 1 + 2 * width : 2]
        return view.copy_(features)
    if layout == "sliced channels":
        larger = features.new_full((batch, channels + 5, height, width), 7.0)
        return larger[:, 3 : 3 + channels].copy_(features)
    if layout == "every second channel":
        larger = features.new_full((batch, 2 * channels, height, width), 7.0)
        return larger[:, ::2].copy_(features)
    if layout == "offset storage":
        buffer = features.new_full((features.numel() + 3,), 7.0)
        return buffer[3:].view(features.shape).copy_(features)
    if layout == "expanded":
        return features[:1].expand_as(features)
    raise ValueError(layout)


DENSE_LAYOUTS = [
    *("contiguous", "channels_last", "rows", "rows, channels last", "transposed map", "batch last", "offset storage"),
]
LAYOUTS = [*DENSE_LAYOUTS, "sliced map", "sliced channels", "every second channel", "expanded"]


def make_mask(kind: str, batch: int, channels: int, seed: int = 0) -> Tensor | None:
    """Zeros and ones at random, so that some groups are masked as a whole."""
    if kind == "none":
        return None
    shape = (channels,) if kind == "shared" else (batch, channels)
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed + 1)) > 0.45).float()


@st.composite
def cases(draw):
    classes = draw(st.integers(1, 9))
    largest = draw(st.sampled_from([2, 4, 12, 40]))
    if draw(st.booleans()):
        sizes = [draw(st.integers(1, largest))] * classes
    else:
        sizes = draw(st.lists(st.integers(1, largest), min_size=classes, max_size=classes))
    batch = draw(st.integers(1, 5))
    side = max(1, min(30, int((60_000 / (batch * sum(sizes))) ** 0.5)))  # keeps a case in the milliseconds
    height, width = draw(st.integers(1, side)), draw(st.integers(1, side))
    return sizes, (batch, sum(sizes), height, width)


# The comparison


def check_pool(
    features: Tensor,
    sizes: list[int],
    mask: Tensor | None = None,
    grads: str = "both",
    seed: int = 0,
    allowed_near_ties: float = 0.02,
    backend: str = "auto",
    roundings: float = ROUNDINGS,
) -> int:
    """Compare values and gradients of `channel_pool` with the oracle, and return how many near-ties were left out.

    Args:
        features: of any dtype, layout and device; the oracle runs on the CPU.
        sizes: the channels of each class.
        mask: as for `channel_pool`.
        grads: which of the two results the gradient comes from: "both", "scores" or "diversity".
        seed: of the incoming gradients.
        allowed_near_ties: largest fraction of (sample, class) pairs whose gradient may be left out because rounding
            decides which channel wins somewhere, by `near_ties`.
        backend: of `channel_pool`.
        roundings: units of rounding that a term may be off, in place of ``ROUNDINGS``.
    """
    groups = ChannelGroups(sizes)
    features = features.detach().requires_grad_()
    working = torch.promote_types(features.dtype, torch.float32)
    generator = torch.Generator().manual_seed(seed + 2)
    shape = (features.shape[0], len(sizes))
    weight_g, weight_h = (torch.randn(shape, generator=generator).to(working) for _ in range(2))
    if grads == "scores":
        weight_h = torch.zeros_like(weight_h)
    if grads == "diversity":
        weight_g = torch.zeros_like(weight_g)

    mask_there = None if mask is None else mask.to(features.device)
    results = channel_pool(features, groups, mask_there, backend=backend)
    outputs, weights = {
        "both": ([*results], [weight_g, weight_h]),
        "scores": ([results.scores], [weight_g]),
        "diversity": ([results.diversity], [weight_h]),
    }[grads]
    (gradient,) = torch.autograd.grad(outputs, features, [weight.to(features.device) for weight in weights])

    assert results.scores.dtype == results.diversity.dtype == working
    assert results.scores.shape == results.diversity.shape == shape
    assert gradient.dtype == features.dtype
    assert gradient.shape == features.shape
    assert gradient.stride() == torch.empty_like(features).stride()

    features = features.detach().cpu()
    exact, exact_gradient = by_oracle(features.double(), sizes, mask, weight_g.double(), weight_h.double())
    plain, plain_gradient = by_oracle(features.to(working), sizes, mask, weight_g, weight_h)

    eps = torch.finfo(working).eps
    rows = features.double().flatten(2)  # [B, N, P]
    unit = roundings * eps
    attention, differences = softmax_and_differences(rows)
    uncertain = attention * (1 - differences)  # the exponential turns the rounding of a difference into a factor
    largest = per_class(rows.abs(), sizes).amax(dim=2)
    assert_close("scores", results.scores, plain[0], exact[0], unit * largest)
    assert_close("diversity", results.diversity, plain[1], exact[1], unit * per_class(uncertain, sizes).sum(2))

    owner = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    left_out = near_ties(attention, differences, sizes, eps) & (weight_h != 0)
    assert left_out.double().mean() <= allowed_near_ties, f"{left_out.sum()} of {left_out.numel()} have near-ties"
    kept = ~left_out[:, owner, None].expand_as(rows)
    ours, plain_gradient, exact_gradient = (t.flatten(2) for t in (gradient.cpu(), plain_gradient, exact_gradient))
    # The two terms of the gradient may cancel: each is rounded by itself.
    bound = unit * (exact_gradient.abs() + 2 * weight_h.double().abs()[:, owner, None] * uncertain)
    bound = bound + torch.finfo(working).tiny
    if working != features.dtype:
        info = torch.finfo(features.dtype)
        bound = bound + 0.5 * info.eps * exact_gradient.abs() + 0.5 * info.smallest_normal * info.eps
    assert_close("gradient", ours[kept], plain_gradient[kept], exact_gradient[kept], bound[kept])
    return int(left_out.sum())


def by_oracle(
    features: Tensor, sizes: list[int], mask: Tensor | None, weight_g: Tensor, weight_h: Tensor
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """((g, h), gradient of the features) by the oracle in the dtype of the features, contiguous."""
    features = features.detach().contiguous().requires_grad_()
    results = oracle.channel_pool(features, sizes, mask)
    (gradient,) = torch.autograd.grad(results, features, [weight_g, weight_h])
    return tuple(result.detach() for result in results), gradient


def assert_close(what: str, ours: Tensor, plain: Tensor, exact: Tensor, bound: Tensor) -> None:
    """|ours − exact| ≤ FACTOR·|plain − exact| + bound, element by element; not finite just where ``exact`` is not."""
    ours, plain = ours.detach().cpu().double(), plain.detach().double()
    finite = exact.isfinite()
    assert torch.equal(ours.isfinite(), finite), f"{what}: finite where the oracle is not, or the reverse"
    assert torch.equal(ours[~finite].nan_to_num(), exact[~finite].nan_to_num()), f"{what}: NaN or infinity differ"
    error, allowed = (ours - exact).abs()[finite], (FACTOR * (plain - exact).abs() + bound)[finite]
    wrong = error > allowed
    if wrong.any():
        worst = (error / allowed.clamp(min=1e-300)).argmax()
        raise AssertionError(
            f"{what}: {int(wrong.sum())} of {wrong.numel()} elements are off; worst: {ours[finite][worst]} for "
            f"{exact[finite][worst]}, error {error[worst]:.3g}, allowed {allowed[worst]:.3g}"
        )


def per_class(values: Tensor, sizes: list[int]) -> Tensor:
    """The largest of each class's channels, (B, N, P) -> (B, C, P)."""
    return torch.stack([part.amax(dim=1) for part in values.split(sizes, dim=1)], dim=1)


def softmax_and_differences(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The softmax of features (B, N, P), and the differences to the row's maximum that it depends on.

    Differences whose exponential is 1 or too small to matter in any dtype are made equal.
    """
    differences = (rows - rows.amax(dim=2, keepdim=True)).clamp(min=-104)
    return rows.softmax(dim=2), torch.where(differences > -1e-20, 0, differences)


def near_ties(attention: Tensor, differences: Tensor, sizes: list[int], eps: float) -> Tensor:
    """Classes of which rounding decides which channel's softmax wins at some position, (B, C).

    Channels with equal differences are no near-tie: the same computation gives the same softmax in any dtype, and the
    first of them wins. Values below 1e-30 are too small to matter for the gradient.
    """
    found = []
    for values, of_class in zip(attention.split(sizes, dim=1), differences.split(sizes, dim=1), strict=True):
        top, winner = values.max(dim=1, keepdim=True)
        is_near = values > top * (1 - 4 * eps * (1 - of_class))
        is_near_tie = torch.zeros_like(is_near[:, 0])
        for channel in range(values.shape[1]):
            same_row = (of_class == of_class[:, channel, None]).all(dim=2)  # [B, ξ]
            is_near_tie |= (winner[:, 0] == channel) & (is_near & ~same_row[..., None]).any(dim=1)
        found.append((is_near_tie & (top[:, 0] > 1e-30)).any(dim=1))
    return torch.stack(found, dim=1)


def as_scalar(incoming: str, scores: torch.Tensor, diversity: torch.Tensor) -> torch.Tensor:
    """A loss whose gradient reaches the results in a certain form."""
    if incoming == "expanded":
        return scores.sum() + 2 * diversity.sum()
    if incoming == "transposed":
        weights = torch.arange(1.0, scores.numel() + 1).view(scores.t().shape)
        return (scores.t() * weights).sum() - (diversity.t() * weights).sum()
    if incoming == "one element":
        return scores[1, 2] + diversity[0, 3]
    if incoming == "only scores":
        return (scores**2).sum()
    return (diversity**2).sum()
