"""The oracle itself: against numbers worked out by hand, loops in plain Python, and the published convention."""

import math

import pytest
import torch
from checks import make_features, make_mask

from reference.formulas import official
from reference.formulas import paper as oracle


def pool_by_loops(features, sizes, mask):
    """g and h as nested lists, by the formulas, one number at a time."""
    batch, channels = features.shape[:2]
    rows = features.flatten(2).tolist()
    mask = torch.ones(batch, channels) if mask is None else mask.expand(batch, channels)
    mask = mask.tolist()
    positions = range(len(rows[0][0]))
    g, h = [], []
    for b in range(batch):
        softmax = []
        for row in rows[b]:
            total = sum(math.exp(value) for value in row)
            softmax.append([math.exp(value) / total for value in row])
        g.append([])
        h.append([])
        first = 0
        for size in sizes:
            group = range(first, first + size)
            g[b].append(sum(max(mask[b][j] * rows[b][j][k] for j in group) for k in positions) / len(positions))
            h[b].append(sum(max(softmax[j][k] for j in group) for k in positions))
            first += size
    return g, h


def gradient_by_loops(features, sizes, mask, dg, dh):
    """dF as nested lists, by the formula for the gradient, one number at a time; first of equals."""
    batch, channels = features.shape[:2]
    softmax = torch.softmax(features.flatten(2), dim=2).tolist()
    rows = features.flatten(2).tolist()
    mask = (torch.ones(batch, channels) if mask is None else mask.expand(batch, channels)).tolist()
    positions = range(len(rows[0][0]))
    gradient = [[[0.0 for _ in positions] for _ in range(channels)] for _ in range(batch)]
    for b in range(batch):
        first = 0
        for i, size in enumerate(sizes):
            group = list(range(first, first + size))
            won = {j: 0.0 for j in group}
            winner_h = []
            for k in positions:
                values = [softmax[b][j][k] for j in group]
                winner_h.append(group[values.index(max(values))])
                won[winner_h[k]] += softmax[b][winner_h[k]][k]
                attended = [mask[b][j] * rows[b][j][k] for j in group]
                winner_g = group[attended.index(max(attended))]
                gradient[b][winner_g][k] += dg[b][i] / len(positions) * mask[b][winner_g]
            for j in group:
                for k in positions:
                    gradient[b][j][k] += dh[b][i] * softmax[b][j][k] * ((winner_h[k] == j) - won[j])
            first += size
    return gradient


@pytest.mark.parametrize("mask", ["none", "shared", "per sample"])
@pytest.mark.parametrize("kind", ["signed", "relu", "negative", "copies"])
@pytest.mark.parametrize("sizes", [[3, 3], [2, 1, 4, 1]], ids=["uniform", "ragged"])
def test_oracle_against_loops(sizes, kind, mask):
    channels = sum(sizes)
    features = make_features(kind, (3, channels, 2, 4), torch.float64).requires_grad_()
    mask = make_mask(mask, 3, channels)
    g, h = oracle.channel_pool(features, sizes, mask)
    expected_g, expected_h = pool_by_loops(features.detach(), sizes, mask)
    torch.testing.assert_close(g.tolist(), expected_g, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(h.tolist(), expected_h, rtol=1e-13, atol=1e-15)

    dg, dh = torch.randn(2, 3, len(sizes), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((g, h), features, (dg, dh))
    expected = gradient_by_loops(features.detach(), sizes, mask, dg.tolist(), dh.tolist())
    torch.testing.assert_close(gradient.flatten(2).tolist(), expected, rtol=1e-12, atol=1e-15)


def test_by_hand():
    """One class of two channels on two positions, and one of one channel. softmax(ln 3, 0) = (3/4, 1/4)."""
    ln3 = math.log(3)
    features = torch.tensor([[[ln3, 0.0], [0.0, ln3], [-1.0, -3.0]]], dtype=torch.float64)
    g, h = oracle.channel_pool(features, [2, 1])
    torch.testing.assert_close(g, torch.tensor([[ln3, -2.0]], dtype=torch.float64))
    torch.testing.assert_close(h, torch.tensor([[1.5, 1.0]], dtype=torch.float64))

    masked, _ = oracle.channel_pool(features, [2, 1], torch.tensor([0, 1, 0]))
    torch.testing.assert_close(masked, torch.tensor([[ln3 / 2, 0.0]], dtype=torch.float64))

    targets = torch.tensor([0])
    l_dis = math.log(1 + math.exp(-2 - ln3))
    paper = oracle.paper_loss(features, targets, [2, 1], None, mu=0.5, lam=3)
    assert paper.item() == pytest.approx(0.5 * (l_dis - 3 * 1.25))
    published = oracle.official_loss(features, targets, [2, 1], None, alpha=2, beta=4)
    assert published.item() == pytest.approx(2 * l_dis + 4 * (1 - (0.75 + 1) / 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(5, 1), (40, 1), (3, 900), (40, 257)], ids=str)
def test_max_of_a_dimension_takes_the_first_of_equals(dtype, shape):
    """Assumptions of the oracle."""
    values = torch.randint(-1, 2, (2, *shape)).to(dtype).requires_grad_()
    largest, index = values.max(dim=1)
    (gradient,) = torch.autograd.grad(largest.sum(), values)
    for sample in range(2):
        for position in range(shape[1]):
            column = values[sample, :, position].tolist()
            assert index[sample, position] == column.index(max(column))
    assert torch.equal(gradient, torch.zeros_like(values).scatter_(1, index.unsqueeze(1), 1))


def test_signed_zeros_are_equal():
    values = torch.tensor([[-0.0], [0.0], [-0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(values.max(dim=0).values.sum(), values)
    assert gradient.flatten().tolist() == [1, 0, 0]


@pytest.mark.parametrize("size", [1, 2, 3, 10])
@pytest.mark.parametrize("kind", ["signed", "relu", "negative", "integers", "copies"])
def test_oracle_against_the_published_convention(kind, size):
    features = make_features(kind, (4, 5 * size, 4, 8), torch.float64).requires_grad_()
    targets = torch.tensor([0, 4, 2, 2])
    mask = make_mask("shared", 4, 5 * size)
    ours = oracle.official_loss(features, targets, [size] * 5, mask, alpha=1.5, beta=20)
    theirs = official.loss(features, targets, size, mask)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=0)
    gradients = [torch.autograd.grad(loss, features)[0] for loss in (ours, theirs)]
    if kind == "integers":  # rows of the same values in another order tie up to rounding only
        gradients = [
            torch.autograd.grad(g, features, torch.ones_like(g))[0]
            for g in (
                oracle.channel_pool(features, [size] * 5, mask)[0],
                official.class_scores(features, size, mask),
            )
        ]
        assert torch.equal(*(gradient != 0 for gradient in gradients))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)


def test_published_convention_of_ragged_groups():
    features = make_features("relu", (4, 2 * 2 + 3 * 3, 4, 4), torch.float64).requires_grad_()
    targets, mask = torch.tensor([0, 4, 2, 2]), make_mask("shared", 4, 13)
    ours = oracle.official_loss(features, targets, [2, 2, 3, 3, 3], mask, alpha=0.3, beta=7)
    theirs = official.ragged_loss(features, targets, [(2, 2), (3, 3)], mask, alpha=0.3, beta=7)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(loss, features)[0] for loss in (ours, theirs)))


def test_discriminality_is_the_cross_entropy():
    scores, targets = torch.randn(6, 4), torch.randint(4, (6,))
    expected = -torch.stack([row.log_softmax(0)[t] for row, t in zip(scores, targets, strict=True)]).mean()
    torch.testing.assert_close(oracle.discriminality(scores, targets), expected)
