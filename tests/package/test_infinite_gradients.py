"""Infinite and NaN incoming gradients: both backends give NaN and infinity exactly where autograd of the formula does.

0 · ∞ is NaN, so a gradient may reach only the positions that a channel wins, and only the classes it belongs to.
"""

import pytest
import torch
from checks import lay_out, make_features, make_mask

from mcl_triton import ChannelGroups, channel_pool
from reference.formulas import paper as oracle

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # where the kernels are interpreted
SIZES = [2, 3, 1, 2]
CLASS = 1  # whose incoming gradient is not finite, in each sample but the first
VALUES = [float("inf"), float("-inf"), float("nan")]
WHERE = {"scores": (True, False), "diversity": (False, True), "both": (True, True)}

by_backend = pytest.mark.parametrize("backend", ["eager", "triton"])


def features_of(kind, dtype):
    shape = (3, sum(SIZES), 3, 5)
    if kind == "underflow":  # maps with one peak: the softmax is 0 elsewhere, and whole positions have no other winner
        peaks = torch.zeros(shape).flatten(2)
        peaks[:, :, :4] = 300 * torch.eye(4).repeat(2, 1)
        return peaks.view(shape).to(dtype)
    return make_features(kind, shape, dtype)


def incoming(value, where):
    """The gradients of g and h: finite ones, and the value in the places that ``where`` names."""
    generator = torch.Generator().manual_seed(1)
    gradients = [torch.randn(3, len(SIZES), generator=generator) for _ in range(2)]
    for gradient, is_hit in zip(gradients, WHERE[where], strict=True):
        if is_hit:
            gradient[1:, CLASS] = value
    return gradients


def gradient_by(pool, features, gradients):
    features = features.detach().requires_grad_()
    results = pool(features)
    weights = [gradient.to(result) for gradient, result in zip(gradients, results, strict=True)]
    return torch.autograd.grad(results, features, weights)[0]


def check(features, mask, gradients, backend, sizes=SIZES):
    """Compare NaN, the infinities and the finite numbers with autograd of the formula in the working dtype."""
    groups = ChannelGroups(sizes)
    there = None if mask is None else mask.to(DEVICE)
    found = gradient_by(lambda f: channel_pool(f, groups, there, backend=backend), features.to(DEVICE), gradients)
    working = features.to(torch.promote_types(features.dtype, torch.float32))
    expected = gradient_by(lambda f: oracle.channel_pool(f, sizes, mask), working, gradients).to(features.dtype)
    torch.testing.assert_close(found.cpu(), expected, equal_nan=True)
    return expected


@by_backend
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "batch last"])
@pytest.mark.parametrize("kind", ["signed", "relu", "underflow"])
@pytest.mark.parametrize("mask", ["none", "per sample"])
@pytest.mark.parametrize("where", ["scores", "diversity"])
def test_each_value(where, mask, kind, layout, backend):
    features = lay_out(features_of(kind, torch.float32), layout)
    other_channels = torch.ones(sum(SIZES), dtype=torch.bool)
    other_channels[sum(SIZES[:CLASS]) : sum(SIZES[: CLASS + 1])] = False
    for value in VALUES:
        expected = check(features, make_mask(mask, 3, sum(SIZES)), incoming(value, where), backend)
        assert not expected.isfinite().all()
        assert expected[:, other_channels].isfinite().all()
        assert expected[0].isfinite().all()


@by_backend
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(dtype, layout, backend):
    features = lay_out(features_of("signed", dtype), layout)
    for value in VALUES:
        check(features, make_mask("per sample", 3, sum(SIZES)), incoming(value, "both"), backend)


@by_backend
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_any_mixture(layout, backend):
    """Any of the values in any place: ∞ − ∞ arises where both results have one."""
    choices = torch.tensor([*VALUES, 0.0, -0.0, 1.0, -2.5])
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        gradients = [choices[torch.randint(len(choices), (3, len(SIZES)), generator=generator)] for _ in range(2)]
        kind = ["signed", "relu", "underflow", "few values"][seed % 4]
        check(lay_out(features_of(kind, torch.float32), layout), make_mask("shared", 3, 8, seed), gradients, backend)


@by_backend
def test_the_example_of_one_class(backend):
    """An infinite gradient of one class score reaches the positions that its channels win, and nothing turns NaN."""
    features = torch.randn(2, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    gradients = torch.zeros(2, 2), torch.zeros(2, 2)
    gradients[0][0, 0] = float("inf")
    expected = check(features, None, gradients, backend, sizes=[2, 3])
    assert expected.isinf().sum() == 9
    assert not expected.isnan().any()
