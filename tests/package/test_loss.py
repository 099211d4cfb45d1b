"""`mc_loss`: both conventions, and everything that can be put in the cross-entropy's place or into it."""

import math

import pytest
import torch
from checks import INTERLEAVED, make_features, make_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from mcl_triton import ChannelGroups, MCLossOutput, channel_pool, mc_loss, sample_channel_mask
from reference.formulas import paper as oracle

GROUPS = ChannelGroups(INTERLEAVED)
TARGETS = torch.tensor([0, 6, 3, 3])


def signed(dtype=torch.float64, seed=0):
    return make_features("signed", (4, 20, 5, 4), dtype, seed)


@pytest.mark.parametrize("mask", ["none", "shared", "per sample"])
@pytest.mark.parametrize("sizes", [[3] * 6, INTERLEAVED], ids=["uniform", "interleaved"])
@pytest.mark.parametrize(
    ("convention", "weights"),
    [
        ("official", None),
        ("official", (0.4, 3)),
        ("official", (0, 2)),
        ("paper", None),
        ("paper", (2, 0.5)),
        ("paper", (1, 0)),
    ],
    ids=str,
)
def test_both_conventions_against_the_oracle(convention, weights, sizes, mask):
    features = make_features("signed", (4, sum(sizes), 5, 4), torch.float64).requires_grad_()
    mask, targets = make_mask(mask, 4, sum(sizes)), TARGETS.clamp(max=len(sizes) - 1)
    output = mc_loss(features, targets, ChannelGroups(sizes), mask=mask, drop=0, convention=convention, weights=weights)
    if convention == "official":
        expected = oracle.official_loss(features, targets, sizes, mask, *(weights or (1.5, 20)))
    else:
        expected = oracle.paper_loss(features, targets, sizes, mask, *(weights or (0.005, 10)))
    torch.testing.assert_close(output.loss, expected, rtol=1e-13, atol=1e-14)
    gradients = [torch.autograd.grad(loss, features)[0] for loss in (output.loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-16)


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    batch=st.integers(1, 5),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    convention=st.sampled_from(["official", "paper"]),
    weights=st.tuples(st.floats(0, 50), st.floats(0, 50)),
    mask=st.sampled_from(["none", "shared", "per sample"]),
    kind=st.sampled_from(["signed", "relu", "negative"]),
    seed=st.integers(0, 1 << 20),
)
def test_random_cases(sizes, batch, shape, convention, weights, mask, kind, seed):
    features = make_features(kind, (batch, sum(sizes), *shape), torch.float64, seed).requires_grad_()
    mask = make_mask(mask, batch, sum(sizes), seed)
    targets = torch.randint(len(sizes), (batch,), generator=torch.Generator().manual_seed(seed))
    groups = ChannelGroups(sizes)
    ours = mc_loss(features, targets, groups, mask=mask, drop=0, convention=convention, weights=weights).loss
    formula = oracle.official_loss if convention == "official" else oracle.paper_loss
    expected = formula(features, targets, sizes, mask, *weights)
    scale = 1 + sum(weights) * (1 + weights[0])
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-13 * scale)
    gradients = [torch.autograd.grad(loss, features)[0] for loss in (ours, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14 * scale)


def test_by_hand():
    """One class of two channels on two positions, and one of one channel. softmax(ln 3, 0) = (3/4, 1/4)."""
    ln3 = math.log(3)
    features = torch.tensor([[[ln3, 0.0], [0.0, ln3], [-1.0, -3.0]]], dtype=torch.float64)
    l_dis = math.log(1 + math.exp(-2 - ln3))
    groups, target = ChannelGroups([2, 1]), torch.tensor([0])
    output = mc_loss(features, target, groups, drop=0, weights=(2, 4))
    assert output.loss.item() == pytest.approx(2 * l_dis + 4 * (1 - (1.5 / 2 + 1 / 1) / 2))
    assert output.discriminality.item() == pytest.approx(l_dis)
    assert output.diversity.item() == pytest.approx(1.25)
    assert output.scores.flatten().tolist() == pytest.approx([ln3, -2])
    paper = mc_loss(features, target, groups, drop=0, convention="paper", weights=(0.5, 3))
    assert paper.loss.item() == pytest.approx(0.5 * (l_dis - 3 * 1.25))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_output(dtype):
    output = mc_loss(signed(dtype), TARGETS, GROUPS)
    assert isinstance(output, MCLossOutput)
    assert output._fields == ("loss", "discriminality", "diversity", "scores")
    assert output.scores.shape == (4, 7)
    assert output.loss.shape == output.discriminality.shape == output.diversity.shape == ()
    assert {value.dtype for value in output} == {torch.float64 if dtype == torch.float64 else torch.float32}
    assert output[0] is output.loss


@pytest.mark.parametrize("size", [1, 3, 10])
def test_weights_of_one_convention_in_the_other(size):
    """For groups of one size: μ = α and λ = β/(α·ξ) give the same gradient, and a loss that differs by β."""
    groups, (alpha, beta) = ChannelGroups.uniform(4, size), (1.5, 20)
    features = make_features("signed", (4, 4 * size, 5, 4), torch.float64).requires_grad_()
    official = mc_loss(features, TARGETS % 4, groups, drop=0, weights=(alpha, beta)).loss
    paper = mc_loss(
        features, TARGETS % 4, groups, drop=0, convention="paper", weights=(alpha, beta / (alpha * size))
    ).loss
    torch.testing.assert_close(official, paper + beta)
    torch.testing.assert_close(*(torch.autograd.grad(loss, features)[0] for loss in (official, paper)))


@pytest.mark.parametrize("convention", ["official", "paper"])
def test_a_step_against_the_gradient_makes_channels_more_diverse(convention):
    """The sign that users get wrong: positive weights reward diversity."""
    features = signed().requires_grad_()
    weights = (0, 1) if convention == "official" else (1, 1)
    before = mc_loss(features, TARGETS, GROUPS, drop=0, convention=convention, weights=weights)
    (gradient,) = torch.autograd.grad(before.loss, features)
    after = mc_loss(features - gradient, TARGETS, GROUPS, drop=0, convention=convention, weights=weights)
    assert after.diversity > before.diversity
    assert after.loss < before.loss


@pytest.mark.parametrize(
    ("convention", "weights", "expected"),
    [
        ("official", (2, 0), {"discriminality"}),
        ("official", (0, 2), {"diversity"}),
        ("official", (2, 3), {"discriminality", "diversity"}),
        ("paper", (2, 0), {"discriminality"}),
        ("paper", (2, 3), {"discriminality", "diversity"}),
    ],
)
def test_a_component_of_weight_0_is_reported_and_gets_no_gradient(convention, weights, expected):
    """Not even one of zeros, which backward would compute with."""
    groups, features = ChannelGroups.uniform(7, 3), make_features("signed", (4, 21, 5, 4), torch.float64)
    output = mc_loss(features.requires_grad_(), TARGETS, groups, drop=0, convention=convention, weights=weights)
    reached = set()
    for name in ("discriminality", "diversity"):
        value = getattr(output, name)
        assert value > 0
        value.register_hook(lambda _, name=name: reached.add(name))
    output.loss.backward()
    assert reached == expected


# The mask


def test_half_of_the_channels_are_dropped_by_default():
    features = signed()
    given_generator, same = (torch.Generator().manual_seed(4) for _ in range(2))
    output = mc_loss(features, TARGETS, GROUPS, generator=given_generator)
    mask = sample_channel_mask(GROUPS, drop="half", generator=same)
    assert torch.equal(output.scores, channel_pool(features, GROUPS, mask).scores)
    assert torch.equal(output.diversity, channel_pool(features, GROUPS).diversity.mean())


@pytest.mark.parametrize("drop", ["half", 0.4, [2, 0, 1, 6, 0, 1, 0]], ids=str)
def test_drop_is_that_of_the_mask(drop):
    features = signed()
    first, second = (torch.Generator().manual_seed(4) for _ in range(2))
    mask = sample_channel_mask(GROUPS, drop=drop, generator=first)
    found = mc_loss(features, TARGETS, GROUPS, drop=drop, generator=second)
    assert torch.equal(found.loss, mc_loss(features, TARGETS, GROUPS, mask=mask).loss)


def test_drop_of_any_sequence():
    features, numbers = signed(), [2, 0, 1, 6, 0, 1, 0]
    losses = []
    for drop in (numbers, tuple(numbers), torch.tensor(numbers)):
        generator = torch.Generator().manual_seed(4)
        losses.append(mc_loss(features, TARGETS, GROUPS, drop=drop, generator=generator).loss)
    assert losses[0] == losses[1] == losses[2]


def test_a_new_mask_every_call():
    features = signed()
    assert len({mc_loss(features, TARGETS, GROUPS).loss.item() for _ in range(20)}) > 15


def test_nothing_dropped_is_nothing_random():
    features, state = signed(), torch.get_rng_state()
    losses = {mc_loss(features, TARGETS, GROUPS, drop=drop).loss.item() for drop in (0, 0, 0.0, [0] * 7)}
    assert len(losses) == 1
    mc_loss(features, TARGETS, GROUPS, drop=0)
    assert torch.equal(channel_pool(features, GROUPS).scores, mc_loss(features, TARGETS, GROUPS, drop=0).scores)
    torch.set_rng_state(state)
    mc_loss(features, TARGETS, GROUPS, drop=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_given_mask_is_used_as_it_is():
    features, mask, state = signed(), make_mask("per sample", 4, 20), torch.get_rng_state()
    output = mc_loss(features, TARGETS, GROUPS, mask=mask, drop="half")
    assert torch.equal(output.scores, channel_pool(features, GROUPS, mask).scores)
    assert torch.equal(torch.get_rng_state(), state)


# The cross-entropy


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8])
def test_targets_of_any_integer_dtype(dtype):
    features = signed()
    expected = mc_loss(features, TARGETS, GROUPS, drop=0).loss
    assert torch.equal(mc_loss(features, TARGETS.to(dtype), GROUPS, drop=0).loss, expected)


def logarithms(features):
    """log softmax(g) of the oracle, (B, C)."""
    return oracle.channel_pool(features, INTERLEAVED)[0].log_softmax(dim=1)


def test_label_smoothing():
    features = signed()
    log = logarithms(features)
    own = torch.stack([row[target] for row, target in zip(log, TARGETS, strict=True)])
    expected = -(0.9 * own + 0.1 * log.mean(dim=1)).mean()
    found = mc_loss(features, TARGETS, GROUPS, drop=0, label_smoothing=0.1)
    torch.testing.assert_close(found.discriminality, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_class_weights(dtype):
    features = signed()
    class_weights = torch.tensor([1, 2, 0.5, 3, 1, 1, 4], dtype=dtype)
    weights = [class_weights[target].double() for target in TARGETS]
    log = logarithms(features)
    total = sum(-weight * row[target] for weight, row, target in zip(weights, log, TARGETS, strict=True))
    found = mc_loss(features, TARGETS, GROUPS, drop=0, class_weights=class_weights)
    torch.testing.assert_close(found.discriminality, total / sum(weights))


@pytest.mark.parametrize("ignore_index", [-100, 2, 255])
def test_ignored_samples(ignore_index):
    features = signed()
    targets = torch.tensor([0, ignore_index, 3, ignore_index])
    found = mc_loss(features, targets, GROUPS, drop=0, ignore_index=ignore_index)
    kept = mc_loss(features[[0, 2]], targets[[0, 2]], GROUPS, drop=0)
    torch.testing.assert_close(found.discriminality, kept.discriminality)
    assert torch.equal(found.diversity, channel_pool(features, GROUPS).diversity.mean())


def test_all_samples_ignored():
    """The mean of nothing: NaN, as cross_entropy has it."""
    output = mc_loss(signed(), torch.full((4,), -100), GROUPS, drop=0)
    assert output.discriminality.isnan()
    assert output.diversity.isfinite()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_class_probabilities(dtype):
    """Probabilities as mixup makes them: the cross-entropy of either label, in proportion."""
    features, other = signed(), torch.tensor([1, 1, 0, 3])
    mixed = 0.75 * one_hot(TARGETS, 7) + 0.25 * one_hot(other, 7)
    found = mc_loss(features, mixed.to(dtype), GROUPS, drop=0).discriminality
    log = logarithms(features)
    torch.testing.assert_close(found, -(mixed * log).sum(dim=1).mean())
    both = [mc_loss(features, targets, GROUPS, drop=0).discriminality for targets in (TARGETS, other)]
    torch.testing.assert_close(found, 0.75 * both[0] + 0.25 * both[1])


def test_targets_may_require_gradients():
    """Soft labels of a teacher that is trained along."""
    labels = torch.rand(4, 7, dtype=torch.float64).softmax(dim=1).requires_grad_()
    features = signed()
    (gradient,) = torch.autograd.grad(mc_loss(features, labels, GROUPS, drop=0).discriminality, labels)
    torch.testing.assert_close(gradient, -logarithms(features) / 4)


# Another criterion


def test_several_labels_an_image():
    features = signed().requires_grad_()
    labels = (torch.rand(4, 7) > 0.6).double()
    output = mc_loss(features, labels, GROUPS, drop=0, criterion=binary_cross_entropy_with_logits, weights=(0.7, 3))
    g, h = oracle.channel_pool(features, INTERLEAVED)
    p = g.sigmoid()
    expected = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    torch.testing.assert_close(output.discriminality, expected)
    fraction = (h / torch.tensor(INTERLEAVED)).mean()
    torch.testing.assert_close(output.loss, 0.7 * expected + 3 * (1 - fraction))
    expected_gradient = torch.autograd.grad(0.7 * expected - 3 * fraction, features)
    torch.testing.assert_close(torch.autograd.grad(output.loss, features), expected_gradient)


def test_criterion_gets_targets_as_they_came():
    seen = []
    targets = {"anything": "goes"}

    def criterion(scores, given):
        seen.append(given)
        return scores.sum()

    output = mc_loss(signed(), targets, GROUPS, drop=0, criterion=criterion)
    assert seen[0] is targets
    assert torch.equal(output.discriminality, output.scores.sum())


def test_criterion_of_cross_entropy_is_the_default():
    features = signed()
    expected = mc_loss(features, TARGETS, GROUPS, drop=0).loss
    assert torch.equal(mc_loss(features, TARGETS, GROUPS, drop=0, criterion=cross_entropy).loss, expected)


# Precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision_costs_nothing_but_the_rounding_of_the_gradient(dtype):
    features = signed(dtype).requires_grad_()
    wide = features.detach().float().requires_grad_()
    ours, expected = (mc_loss(x, TARGETS, GROUPS, drop=0).loss for x in (features, wide))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)
    ours, expected = torch.autograd.grad(ours, features)[0], torch.autograd.grad(expected, wide)[0]
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.float(), expected, rtol=torch.finfo(dtype).eps, atol=1e-7)
