"""The loss equals the published code's on groups of one size: to float32's rounding, and exactly where channels tie."""

import pytest
import torch
from checks import make_features, make_mask

from mcl_triton import ChannelGroups, channel_pool, mc_loss
from reference.formulas import official

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def both_losses(features, size, mask, weights=(1.5, 20.0)):
    classes = features.shape[1] // size
    targets = torch.arange(features.shape[0]) * 2 % classes
    ours = mc_loss(features, targets, ChannelGroups.uniform(classes, size), mask=mask, drop=0, weights=weights).loss
    return ours, official.loss(features, targets, size, mask, *weights)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(14, 14), (7, 11), (1, 1)], ids=str)
@pytest.mark.parametrize("size", [1, 3, 10])
@pytest.mark.parametrize("masked", [False, True], ids=["all kept", "masked"])
def test_loss_and_gradient_to_rounding(size, shape, masked, layout):
    features = make_features("signed", (6, 8 * size, *shape), torch.float32)
    features = features.contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
    mask = make_mask("shared", 6, 8 * size) if masked else None
    ours, theirs = both_losses(features, size, mask)
    _, exact = both_losses(features.double(), size, mask)
    unit = torch.finfo(torch.float32).eps
    # β = 20 times a mean near 1 is what is rounded.
    assert abs(ours.item() - exact.item()) <= 2 * abs(theirs.item() - exact.item()) + 20 * 4 * unit

    ours, theirs, exact = (torch.autograd.grad(loss, features)[0].double() for loss in (ours, theirs, exact))
    # A term of the diversity is β·s / (B·C·ξ) at most, one of the scores α / (B·P).
    attention = features.detach().double().flatten(2).softmax(dim=2).view_as(ours)
    largest = 20 / (6 * 8 * size) * attention + exact.abs()
    positions = shape[0] * shape[1]
    error = (ours - exact).abs()
    assert (error <= 2 * (theirs - exact).abs() + (8 + positions**0.5) * unit * largest).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("masked", [False, True], ids=["all kept", "masked"])
@pytest.mark.parametrize("size", [2, 3, 10])
@pytest.mark.parametrize("kind", ["relu", "integers", "few values", "signed zeros", "copies", "constant"])
def test_ties_of_the_scores_are_broken_alike(kind, size, masked, layout):
    features = make_features(kind, (6, 8 * size, 4, 8), torch.float32)
    features = features.contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
    mask = make_mask("shared", 6, 8 * size) if masked else None
    ours, theirs = (torch.autograd.grad(loss, features)[0] for loss in both_losses(features, size, mask, (1.0, 0.0)))
    assert torch.equal(ours != 0, theirs != 0)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [2, 3, 10])
@pytest.mark.parametrize("kind", ["relu", "copies", "constant"])
def test_ties_of_the_diversity_are_broken_alike(kind, size, layout):
    """Dead channels tie at 1/P, and P = 32 makes every sum of these exact."""
    features = make_features(kind, (6, 8 * size, 4, 8), torch.float32)
    features = features.contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
    ours, theirs = (torch.autograd.grad(loss, features)[0] for loss in both_losses(features, size, None, (0.0, 20.0)))
    # A channel that wins everywhere has 1 - w = 0 up to rounding; the sign and size of the rest is not its tie.
    rounding = 1e-6 * 20 / (6 * 8 * size)
    is_real = theirs.abs().flatten(2).amax(dim=2) > rounding
    assert is_real.any() or kind == "constant"
    assert torch.equal(ours.flatten(2)[is_real] != 0, theirs.flatten(2)[is_real] != 0)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=rounding)


@pytest.mark.parametrize("size", [1, 3])
def test_the_reductions(size):
    features = make_features("relu", (5, 4 * size, 6, 3), torch.float32)
    mask = make_mask("shared", 5, 4 * size)
    scores, diversity = channel_pool(features, ChannelGroups.uniform(4, size), mask)
    torch.testing.assert_close(scores, official.class_scores(features, size, mask))
    torch.testing.assert_close(diversity / size, official.diversity_fractions(features, size))


def test_ragged_groups():
    groups = ChannelGroups.split(100, 12)  # 8x8 + 4x9
    features = make_features("signed", (6, 100, 7, 7), torch.float32).requires_grad_()
    targets, mask = torch.arange(6), make_mask("shared", 6, 100)
    ours = mc_loss(features, targets, groups, mask=mask, weights=(0.7, 9)).loss
    theirs = official.ragged_loss(features, targets, groups.runs, mask, 0.7, 9)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, features)[0] for loss in (ours, theirs)))
