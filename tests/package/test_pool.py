"""`channel_pool` equals the oracle in float64, values and gradients, for every kind of input."""

import pytest
import torch
from checks import (
    DENSE_LAYOUTS,
    DTYPES,
    INTERLEAVED,
    KINDS,
    LAYOUTS,
    MASKS,
    NEAR_TIED,
    as_scalar,
    by_oracle,
    cases,
    check_pool,
    dtype_name,
    grads_of,
    lay_out,
    make_features,
    make_mask,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcl_triton import ChannelGroups, channel_pool, eager


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [[3] * 6, INTERLEAVED], ids=["uniform", "interleaved"])
def test_kinds_of_features(sizes, kind, dtype):
    features = make_features(kind, (4, sum(sizes), 5, 7), dtype)
    for mask in MASKS:
        check_pool(features, sizes, make_mask(mask, 4, sum(sizes)), grads_of(kind, dtype), allowed_near_ties=0.1)


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sizes", [[4] * 5, INTERLEAVED], ids=["uniform", "interleaved"])
def test_layouts(sizes, layout, dtype):
    features = lay_out(make_features("signed", (3, 20, 8, 9), dtype), layout)
    for mask in MASKS:
        check_pool(features, sizes, make_mask(mask, 3, 20), allowed_near_ties=0.1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 1), (1, 900), (7, 13), (14, 14), (28, 28), (30, 30)], ids=str)
@pytest.mark.parametrize(
    "sizes",
    [[1], [1] * 5, [40, 40], [1, 40, 2], [2] * 8 + [3] * 12, [9, 20, 9], [10, 10, 11]],
    ids=lambda sizes: repr(ChannelGroups(sizes)).removeprefix("ChannelGroups"),
)
def test_sizes(sizes, shape):
    for kind in ("signed", "relu"):
        features = make_features(kind, (2, sum(sizes), *shape), torch.float32)
        check_pool(features, sizes, make_mask("shared", 2, sum(sizes)), allowed_near_ties=0.2)


def test_random_cases():
    left_out = compared = 0

    @settings(max_examples=400)
    @given(
        case=cases(),
        kind=st.sampled_from(KINDS),
        dtype=st.sampled_from(DTYPES),
        layout=st.sampled_from(LAYOUTS),
        mask=st.sampled_from(MASKS),
        block_size=st.sampled_from([1, 125, 1_250, 1 << 18]),
        grads=st.sampled_from(["both", "scores", "diversity"]),
        seed=st.integers(0, 1 << 20),
    )
    def check(case, kind, dtype, layout, mask, block_size, grads, seed):
        nonlocal left_out, compared
        sizes, shape = case
        grads = "scores" if (kind, dtype) in NEAR_TIED else grads
        features = lay_out(make_features(kind, shape, dtype, seed), layout)
        mask = make_mask(mask, shape[0], shape[1], seed)
        with pytest.MonkeyPatch.context() as patch:
            cut_blocks(patch, block_size)
            left_out += check_pool(features, sizes, mask, grads, seed, allowed_near_ties=1)
        compared += shape[0] * len(sizes)

    check()
    assert left_out < 0.05 * compared


# Blocks


def cut_blocks(patch: pytest.MonkeyPatch, block_size: int) -> list[torch.Size]:
    """Make the blocks at most so large; the list holds the shape of every block's softmax from then on."""
    shapes: list[torch.Size] = []
    softmax = torch.softmax

    def recorded(values, dim, **options):
        if "out" in options:  # not the oracle's
            shapes.append(values.shape)
        return softmax(values, dim, **options)

    patch.setattr(eager, "BLOCK_SIZE", block_size)
    patch.setattr(torch, "softmax", recorded)
    return shapes


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "rows", "batch last", "every second channel"])
@pytest.mark.parametrize("block_size", [1, 625, 2_500])
@pytest.mark.parametrize(
    "sizes", [[3] * 7, INTERLEAVED, [2] * 4 + [3] * 4], ids=["uniform", "interleaved", "smaller first"]
)
def test_blocks(monkeypatch, sizes, block_size, layout):
    """From one class of one sample a block to several samples a block, which divide neither batch nor classes."""
    channels = sum(sizes)
    cut = cut_blocks(monkeypatch, block_size)
    features = lay_out(make_features("relu", (7, channels, 6, 11), torch.float32, seed=3), layout)
    check_pool(features, sizes, make_mask("per sample", 7, channels), allowed_near_ties=0.1)
    finest = 7 * len(sizes)
    assert len(cut) == finest if block_size == 1 else len(set(sizes)) < len(cut) < finest


def test_blocks_make_no_difference(monkeypatch):
    features = make_features("copies", (5, 20, 8, 8), torch.float32).requires_grad_()
    mask = make_mask("per sample", 5, 20)
    outcomes = []
    for block_size in (1 << 28, 500):
        with monkeypatch.context() as patch:
            cut = cut_blocks(patch, block_size)
            results = channel_pool(features, ChannelGroups(INTERLEAVED), mask)
            (gradient,) = torch.autograd.grad(sum(result.cos().sum() for result in results), features)
            outcomes.append((*results, gradient))
            assert len(cut) > 10 or block_size > 500
    for whole, cut in zip(*outcomes, strict=True):
        torch.testing.assert_close(cut, whole, rtol=2e-6, atol=1e-7)
    whole, cut = (gradient != 0 for *_, gradient in outcomes)
    assert (whole == cut).double().mean() > 0.999  # 1 - w may be rounded to 0 in one and not in the other


@pytest.mark.parametrize("sizes", [[3] * 200, [2] * 88 + [3] * 112], ids=["uniform", "smaller first"])
def test_a_batch_as_in_training(monkeypatch, sizes):
    """The blocks as they are, on features of some megabytes."""
    cut = cut_blocks(monkeypatch, eager.BLOCK_SIZE)
    features = make_features("relu", (19, sum(sizes), 14, 14), torch.float32)
    check_pool(features, sizes, make_mask("shared", 19, sum(sizes)))
    assert len(cut) > 1


# Masks


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64], ids=dtype_name)
def test_mask_of_any_dtype(dtype):
    features = make_features("signed", (3, 20, 4, 4), torch.float32)
    mask = make_mask("per sample", 3, 20)
    expected = channel_pool(features, ChannelGroups(INTERLEAVED), mask)
    found = channel_pool(features, ChannelGroups(INTERLEAVED), mask.to(dtype))
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.diversity, expected.diversity)


@pytest.mark.parametrize("make_view", [lambda m: m[:1].expand(3, -1), lambda m: m.t().contiguous().t()])
def test_mask_that_is_a_view(make_view):
    check_pool(
        make_features("relu", (3, 20, 4, 4), torch.float32), INTERLEAVED, make_view(make_mask("per sample", 3, 20))
    )


def test_masked_channel_counts_as_zero():
    """Zero beats negative values and takes no gradient; the diversity sees the features without the mask."""
    features = torch.tensor([[[-1.0, -2.0], [-3.0, -4.0]], [[5.0, -6.0], [7.0, 8.0]]]).requires_grad_()
    scores, diversity = channel_pool(features, ChannelGroups([2]), torch.tensor([1, 0]))
    assert scores.tolist() == [[0.0], [2.5]]
    (gradient,) = torch.autograd.grad(scores.sum(), features)
    assert gradient.tolist() == [[[0.0, 0.0], [0.0, 0.0]], [[0.5, 0.0], [0.0, 0.0]]]
    assert torch.equal(diversity, channel_pool(features, ChannelGroups([2])).diversity)


# Ties


@pytest.mark.parametrize("layout", DENSE_LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("kind", ["integers", "few values", "signed zeros", "copies", "constant", "smallest"])
def test_first_of_equals_takes_the_whole_gradient(kind, dtype, layout):
    features = lay_out(make_features(kind, (4, 20, 4, 8), dtype), layout).requires_grad_()
    mask = make_mask("per sample", 4, 20)
    scores, _ = channel_pool(features, ChannelGroups(INTERLEAVED), mask)
    (gradient,) = torch.autograd.grad(scores.sum(), features)
    rows, first = (features.detach() * mask.view(4, 20, *[1] * (features.dim() - 2))).flatten(2).tolist(), 0
    expected = torch.zeros(4, 20, 32, dtype=torch.float64)
    for size in INTERLEAVED:
        for sample in range(4):
            for position in range(32):
                values = [rows[sample][channel][position] for channel in range(first, first + size)]
                winner = first + values.index(max(values))  # index() gives the first
                expected[sample, winner, position] = mask[sample, winner] / 32
        first += size
    assert torch.equal(gradient.flatten(2).double(), expected)


@pytest.mark.parametrize("layout", DENSE_LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
def test_first_of_dead_channels_takes_the_gradient_of_the_diversity(dtype, layout):
    """Channels 1 to 3 are constant and tie at 1/P; channel 0 peaks on two of sixteen positions."""
    features = torch.zeros(2, 5, 4, 4, dtype=dtype)
    features[:, 0, 0, :2] = 3
    features[:, 2], features[:, 3], features[:, 4, 2, 3] = 2.5, -7, -1
    features = lay_out(features, layout).requires_grad_()
    _, diversity = channel_pool(features, ChannelGroups([4, 1]))
    (gradient,) = torch.autograd.grad(diversity[:, 0].sum(), features)
    gets_any = (gradient.flatten(2) != 0).any(dim=2)
    assert gets_any.tolist() == [[True, True, False, False, False]] * 2
    # w = 14/16: each of the 14 that it wins gets (1 - w)/16, the other two get -w/16.
    expected = torch.full((4, 4), 2 / 256)
    expected[0, :2] = -14 / 256
    assert torch.equal(gradient.flatten(2)[0, 1].float(), expected.flatten())


def test_first_of_several_nans_takes_the_gradient():
    features = torch.zeros(1, 4, 2, 3)
    features[0, [1, 2], 0, 1] = torch.nan
    (gradient,) = torch.autograd.grad(
        channel_pool(features.requires_grad_(), ChannelGroups([4])).scores.sum(), features
    )
    expected = torch.zeros(1, 4, 2, 3)
    expected[0, 0] = 1 / 6
    expected[0, :2, 0, 1] = torch.tensor([0, 1 / 6])
    assert torch.equal(gradient, expected)


def test_a_class_of_more_channels_than_a_byte_can_number():
    features = torch.zeros(2, 303, 2, 2)
    features[:, 299] = 1
    (gradient,) = torch.autograd.grad(
        channel_pool(features.requires_grad_(), ChannelGroups([300, 3])).scores.sum(), features
    )
    expected = torch.zeros(2, 303, 2, 2)
    expected[:, [299, 300]] = 1 / 4
    assert torch.equal(gradient, expected)


# Gradients


@pytest.mark.parametrize("incoming", ["expanded", "transposed", "one element", "only scores", "only diversity"])
@pytest.mark.parametrize("mask", MASKS)
def test_incoming_gradients(incoming, mask):
    features = make_features("signed", (3, 20, 4, 5), torch.float64).requires_grad_()
    mask = make_mask(mask, 3, 20)
    (gradient,) = torch.autograd.grad(
        as_scalar(incoming, *channel_pool(features, ChannelGroups(INTERLEAVED), mask)), features
    )
    leaves = [result.detach().requires_grad_() for result in channel_pool(features, ChannelGroups(INTERLEAVED), mask)]
    as_scalar(incoming, *leaves).backward()
    weights = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    _, expected = by_oracle(features, INTERLEAVED, mask, *weights)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("sizes", [[3, 3], [1, 4, 2, 4]], ids=["uniform", "interleaved"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "rows", "sliced map", "every second channel"])
def test_gradcheck(layout, mask, sizes):
    """Finite differences; both results, and each of them alone."""
    features = lay_out(make_features("signed", (2, sum(sizes), 3, 2), torch.float64), layout).requires_grad_()
    mask = make_mask(mask, 2, sum(sizes))
    for used in (slice(0, 2), slice(0, 1), slice(1, 2)):
        assert torch.autograd.gradcheck(
            lambda x, used=used: channel_pool(x, ChannelGroups(sizes), mask)[used],
            features,
            # Every element of one layout; a random direction through all of them for the others.
            fast_mode=layout != "contiguous",
        )


@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    mask=st.sampled_from(MASKS),
    seed=st.integers(0, 1 << 20),
)
@example(sizes=[1], shape=(1, 1), mask="none", seed=0)
def test_gradcheck_of_random_cases(sizes, shape, mask, seed):
    # Multiples of 0.01, each once, are further apart than the step of the finite differences.
    generator = torch.Generator().manual_seed(seed)
    count = 2 * sum(sizes) * shape[0] * shape[1]
    features = (torch.randperm(count, generator=generator).double() - count / 2 + 0.25) / 100
    features = features.view(2, sum(sizes), *shape).requires_grad_()
    mask = make_mask(mask, 2, sum(sizes), seed)
    assert torch.autograd.gradcheck(
        lambda x: channel_pool(x, ChannelGroups(sizes), mask).scores, features, atol=1e-6, fast_mode=True
    )


def test_second_derivative_is_refused():
    features = make_features("signed", (2, 6, 3, 3), torch.float64).requires_grad_()
    scores, diversity = channel_pool(features, ChannelGroups([3, 3]))
    (gradient,) = torch.autograd.grad((scores**2 + diversity).sum(), features, create_graph=True)
    with pytest.raises(RuntimeError, match=r"channel_pool can be differentiated once.*plain formula"):
        (gradient**2).sum().backward()


def test_changing_the_features_before_backward_is_an_error():
    features = make_features("signed", (2, 6, 3, 3), torch.float32).requires_grad_()
    activations = features * 1
    total = channel_pool(activations, ChannelGroups([3, 3])).scores.sum()
    activations.relu_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_arguments_are_left_alone():
    for layout in LAYOUTS:
        features = lay_out(make_features("relu", (3, 20, 4, 5), torch.float32), layout)
        mask = make_mask("per sample", 3, 20)
        before = features.clone(), mask.clone()
        scores, diversity = channel_pool(features.requires_grad_(), ChannelGroups(INTERLEAVED), mask)
        torch.autograd.grad((scores + diversity).sum(), features)
        assert torch.equal(features, before[0])
        assert torch.equal(mask, before[1])


# The pieces


def test_diversity_lies_between_one_and_the_size():
    one_spot = torch.full((1, 4, 3, 3), -200.0)
    apart = one_spot.clone()
    for channel in range(4):
        one_spot[0, channel, 1, 1] = 0
        apart[0, channel, channel // 2, channel % 2] = 0
    assert channel_pool(one_spot, ChannelGroups([4])).diversity.item() == 1
    assert channel_pool(apart, ChannelGroups([4])).diversity.item() == 4


def test_the_order_of_the_result():
    assert channel_pool(torch.ones(2, 6, 3, 3), ChannelGroups([3, 3]))._fields == ("scores", "diversity")
