"""Bad input raises before any work and says what was given and what was expected; NaN and infinity come out again."""

import contextlib
import itertools
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from checks import by_oracle, lay_out, make_features, make_mask

from mcl_triton import ChannelGroups, MCLoss, channel_pool, class_maps, mc_loss, sample_channel_mask
from reference.formulas import paper as oracle

GROUPS = ChannelGroups([3, 1, 2])
FEATURES = torch.randn(4, 6, 3, 5, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([0, 1, 2, 2])


@contextlib.contextmanager
def refuses(error, *parts):
    """The error is raised with all these parts in its message, in this order, and no random number was drawn."""
    state = torch.get_rng_state()
    with pytest.raises(error, match=".*".join(re.escape(part) for part in parts)) as raised:
        yield
    assert type(raised.value) is error
    assert torch.equal(torch.get_rng_state(), state)


# Groups


@pytest.mark.parametrize(
    ("sizes", "error", "parts"),
    [
        ([], ValueError, ["at least one class", "no sizes"]),
        ([3, 0, 2], ValueError, ["at least one channel", "class 1 has size 0"]),
        ([3, 2, -1], ValueError, ["at least one channel", "class 2 has size -1"]),
        ([3.0, 2], TypeError, ["for example [3, 3, 2]", "got [3.0, 2]"]),
        ([True, 2], TypeError, ["got [True, 2]"]),
        (6, TypeError, ["got 6", "uniform(num_classes, channels_per_class)"]),
        (None, TypeError, ["got None"]),
        ("33", TypeError, ["got '33'"]),
        ({1: 3, 2: 3}, TypeError, ["for example [3, 3, 2]", "got {1: 3, 2: 3}"]),
        ({3, 2}, TypeError, ["for example [3, 3, 2]", "got {2, 3}"]),
    ],
    ids=str,
)
def test_sizes(sizes, error, parts):
    with refuses(error, *parts):
        ChannelGroups(sizes)


@pytest.mark.parametrize(
    ("arguments", "error", "parts"),
    [
        ((3, 4), ValueError, ["cannot split 3 channels among 4 classes", "at least one"]),
        ((0, 4), ValueError, ["num_channels must be at least 1", "got 0"]),
        ((4, 0), ValueError, ["num_classes must be at least 1", "got 0"]),
        ((4, -2), ValueError, ["num_classes must be at least 1", "got -2"]),
        ((4.0, 2), TypeError, ["num_channels must be an integer", "got 4.0"]),
        ((4, "2"), TypeError, ["num_classes must be an integer", "got '2'"]),
        ((True, True), TypeError, ["num_channels must be an integer", "got True"]),
    ],
    ids=str,
)
def test_split(arguments, error, parts):
    with refuses(error, *parts):
        ChannelGroups.split(*arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "parts"),
    [
        ((0, 3), ValueError, ["num_classes must be at least 1", "got 0"]),
        ((3, 0), ValueError, ["channels_per_class must be at least 1", "got 0"]),
        ((3, -1), ValueError, ["channels_per_class must be at least 1", "got -1"]),
        ((3, 1.5), TypeError, ["channels_per_class must be an integer", "got 1.5"]),
        ((None, 3), TypeError, ["num_classes must be an integer", "got None"]),
    ],
    ids=str,
)
def test_uniform(arguments, error, parts):
    with refuses(error, *parts):
        ChannelGroups.uniform(*arguments)


# Features, mask and backend: the same in channel_pool, mc_loss and MCLoss

FUNCTIONS = {
    "channel_pool": lambda features, groups, mask: channel_pool(features, groups, mask),
    "mc_loss": lambda features, groups, mask: mc_loss(features, TARGETS, groups, mask=mask),
    "MCLoss": lambda features, groups, mask: MCLoss(groups)(features, TARGETS, mask),
}

FEATURE_ERRORS = {
    "too few channels": (FEATURES[:, :5], ValueError, ["5 channels, (4, 5, 3, 5)", "groups have 6", "1x3 + 1x1 + 1x2"]),
    "too many channels": (FEATURES.repeat(1, 2, 1, 1), ValueError, ["12 channels", "groups have 6", "split(12,"]),
    "vectors": (FEATURES[..., 0, 0], ValueError, ["(B, N, H, W) or (B, N, P)", "2 dimensions, (4, 6)"]),
    "volumes": (FEATURES[..., None], ValueError, ["(B, N, H, W) or (B, N, P)", "5 dimensions, (4, 6, 3, 5, 1)"]),
    "scalar": (FEATURES[0, 0, 0, 0], ValueError, ["(B, N, H, W) or (B, N, P)", "0 dimensions"]),
    "no sample": (FEATURES[:0], ValueError, ["at least one sample", "(0, 6, 3, 5)"]),
    "no position": (FEATURES[..., :0], ValueError, ["at least one", "position", "(4, 6, 3, 0)"]),
    "no position in rows": (FEATURES[..., 0, :0], ValueError, ["at least one", "position", "(4, 6, 0)"]),
    "integers": (FEATURES.long(), TypeError, ["float32, bfloat16, float16 or float64", "torch.int64"]),
    "bytes": (FEATURES.byte(), TypeError, ["float32, bfloat16, float16 or float64", "torch.uint8"]),
    "truth values": (FEATURES > 0, TypeError, ["float32, bfloat16, float16 or float64", "torch.bool"]),
    "complex": (FEATURES + 0j, TypeError, ["float32, bfloat16, float16 or float64", "torch.complex64"]),
    "float8": (FEATURES.to(torch.float8_e5m2), TypeError, ["float32", "torch.float8_e5m2"]),
    "an array": (FEATURES.numpy(), TypeError, ["features must be a tensor", "got ndarray"]),
    "a list": ([[1.0]], TypeError, ["features must be a tensor", "got list"]),
    "nothing": (None, TypeError, ["features must be a tensor", "got NoneType"]),
}


@pytest.mark.parametrize("call", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize(("features", "error", "parts"), FEATURE_ERRORS.values(), ids=FEATURE_ERRORS)
def test_features(features, error, parts, call):
    with refuses(error, *parts):
        call(features, GROUPS, None)


MASK_ERRORS = {
    "too short": (torch.ones(5), ValueError, ["(6,) or (4, 6)", "features (4, 6, 3, 5)", "got (5,)"]),
    "a class each": (torch.ones(3), ValueError, ["(6,) or (4, 6)", "got (3,)"]),
    "one sample": (torch.ones(1, 6), ValueError, ["(6,) or (4, 6)", "got (1, 6)"]),
    "transposed": (torch.ones(6, 4), ValueError, ["(6,) or (4, 6)", "got (6, 4)"]),
    "every position": (torch.ones(4, 6, 3, 5), ValueError, ["(6,) or (4, 6)", "got (4, 6, 3, 5)"]),
    "scalar": (torch.tensor(1.0), ValueError, ["(6,) or (4, 6)", "got ()"]),
    "another device": (torch.ones(6, device="meta"), ValueError, ["mask is on meta", "features are on cpu"]),
    "complex": (torch.ones(6) + 0j, TypeError, ["tensor of zeros and ones", "torch.complex64"]),
    "a list": ([1, 0, 1, 1, 1, 0], TypeError, ["mask must be a tensor", "got list"]),
    "an array": (torch.ones(6).numpy(), TypeError, ["mask must be a tensor", "got ndarray"]),
    "sparse": (
        torch.ones(6).to_sparse(),
        TypeError,
        ["mask must be an ordinary dense tensor", "sparse", ".to_dense()"],
    ),
    "trainable": (torch.ones(6, requires_grad=True), ValueError, ["mask requires a gradient", "mask.detach()"]),
}


@pytest.mark.parametrize("call", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize(("mask", "error", "parts"), MASK_ERRORS.values(), ids=MASK_ERRORS)
def test_mask(mask, error, parts, call):
    with refuses(error, *parts):
        call(FEATURES, GROUPS, mask)


@pytest.mark.parametrize("call", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("groups", [[3, 1, 2], (3, 1, 2), 6, None], ids=str)
def test_groups(groups, call):
    with refuses(TypeError, "groups must be a ChannelGroups", f"got {type(groups).__name__}", "ChannelGroups(sizes)"):
        call(FEATURES, groups, None)


BACKEND_FUNCTIONS = {
    "channel_pool": lambda backend: channel_pool(FEATURES, GROUPS, backend=backend),
    "mc_loss": lambda backend: mc_loss(FEATURES, TARGETS, GROUPS, backend=backend),
    "sample_channel_mask": lambda backend: sample_channel_mask(GROUPS, device="cpu", backend=backend),
    "MCLoss": lambda backend: MCLoss(GROUPS, backend=backend),
}
# A module does not know before it is called where the features will be.
DEVICE_FUNCTIONS = {**BACKEND_FUNCTIONS, "MCLoss": lambda backend: MCLoss(GROUPS, backend=backend)(FEATURES, TARGETS)}


@pytest.mark.parametrize("call", BACKEND_FUNCTIONS.values(), ids=BACKEND_FUNCTIONS)
@pytest.mark.parametrize("backend", ["cuda", "Eager", "", None, 1], ids=repr)
def test_unknown_backend(backend, call):
    with refuses(ValueError, 'backend must be "auto", "eager" or "triton"', f"got {backend!r}"):
        call(backend)


@pytest.mark.parametrize("call", BACKEND_FUNCTIONS.values(), ids=BACKEND_FUNCTIONS)
def test_kernels_without_triton(call, monkeypatch):
    monkeypatch.setattr("mcl_triton.backend._HAS_TRITON", False)
    with refuses(ImportError, 'backend="triton"', "triton, which is not installed", "pip install triton", "auto"):
        call("triton")


@pytest.mark.parametrize("call", DEVICE_FUNCTIONS.values(), ids=DEVICE_FUNCTIONS)
def test_kernels_without_a_gpu(call, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with refuses(ValueError, 'backend="triton"', "CUDA or ROCm device; got cpu", "auto", "TRITON_INTERPRET=1"):
        call("triton")


# Targets

INDICES_OR_PROBABILITIES = "class indices (4,), integer, or class probabilities (4, 3), floating"
TARGET_ERRORS = {
    "too few": (TARGETS[:3], ValueError, [INDICES_OR_PROBABILITIES, "torch.int64 (3,)"]),
    "too many": (TARGETS.repeat(2), ValueError, [INDICES_OR_PROBABILITIES, "torch.int64 (8,)"]),
    "column": (TARGETS[:, None], ValueError, [INDICES_OR_PROBABILITIES, "torch.int64 (4, 1)"]),
    "scalar": (TARGETS[0], ValueError, [INDICES_OR_PROBABILITIES, "torch.int64 ()"]),
    "one-hot": (torch.eye(3)[TARGETS].long(), ValueError, ["torch.int64 (4, 3)", "targets.float()", "criterion"]),
    "floating indices": (TARGETS.float(), ValueError, ["torch.float32 (4,)", "targets.long()"]),
    "probabilities of other classes": (torch.ones(4, 4), ValueError, [INDICES_OR_PROBABILITIES, "(4, 4)"]),
    "probabilities of other samples": (torch.ones(3, 3), ValueError, [INDICES_OR_PROBABILITIES, "(3, 3)"]),
    "truth values": (torch.eye(3)[TARGETS].bool(), TypeError, [INDICES_OR_PROBABILITIES, "torch.bool"]),
    "complex": (TARGETS + 0j, TypeError, [INDICES_OR_PROBABILITIES, "torch.complex64"]),
    "a list": ([0, 1, 2, 2], TypeError, [INDICES_OR_PROBABILITIES, "got list"]),
    "nothing": (None, TypeError, [INDICES_OR_PROBABILITIES, "got NoneType"]),
    "sparse": (
        torch.eye(3)[TARGETS].to_sparse(),
        TypeError,
        ["targets must be an ordinary dense tensor", ".to_dense()"],
    ),
    "one too large": (torch.tensor([0, 1, 3, 2]), ValueError, ["from 0 to 2", "sample 2 has 3", "targets - 1"]),
    "negative": (torch.tensor([0, -1, 1, 2]), ValueError, ["from 0 to 2", "ignore_index=-100", "sample 1 has -1"]),
    "bytes that wrap": (torch.tensor([0, 255, 1, 2]).byte(), ValueError, ["from 0 to 2", "sample 1 has 255"]),
    "probabilities that are no numbers": (
        torch.full((4, 3), float("nan")),
        ValueError,
        ["probabilities must be finite and not negative", "sample 0 has nan", "Logits"],
    ),
    "logits": (
        torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [2.0, -1.5, 0.1], [0.0, 0.0, 1.0]]),
        ValueError,
        ["probabilities must be finite and not negative", "sample 2 has -1.5", "softmax"],
    ),
    "an infinite probability": (
        torch.tensor([[1.0, 0.0, 0.0]] * 3 + [[0.0, float("inf"), 0.0]]),
        ValueError,
        ["probabilities must be finite and not negative", "sample 3 has inf"],
    ),
    "another device": (TARGETS.to("meta"), ValueError, ["targets are on meta", "features are on cpu"]),
}


@pytest.mark.parametrize(("targets", "error", "parts"), TARGET_ERRORS.values(), ids=TARGET_ERRORS)
def test_targets(targets, error, parts):
    with refuses(error, *parts):
        mc_loss(FEATURES, targets, GROUPS)
    with refuses(error, *parts):
        MCLoss(GROUPS)(FEATURES, targets)


@pytest.mark.parametrize(
    "settings",
    [
        {"weights": (np.float32(1.5), 20)},
        {"weights": [torch.tensor(1.5), np.float64(20)]},
        {"weights": (1.5, Fraction(20))},
        {"label_smoothing": 0},
        {"class_weights": torch.ones(3)},
        {"class_weights": torch.ones(3).half()},
        {"class_weights": torch.ones(3).long()},
    ],
    ids=str,
)
def test_numbers_of_any_type(settings):
    expected = mc_loss(FEATURES, TARGETS, GROUPS, drop=0).loss
    assert torch.equal(mc_loss(FEATURES, TARGETS, GROUPS, drop=0, **settings).loss, expected)


def test_the_ignored_index_is_no_class():
    targets = torch.tensor([0, -100, 1, 2])
    assert mc_loss(FEATURES, targets, GROUPS).loss.isfinite()
    with refuses(ValueError, "from 0 to 2", "ignore_index=-1;", "sample 1 has -100"):
        mc_loss(FEATURES, targets, GROUPS, ignore_index=-1)


# Settings of the loss: mc_loss refuses them, and MCLoss does when it is made

SETTING_ERRORS = {
    "convention": ({"convention": "Official"}, ValueError, ['"official" or "paper"', "got 'Official'"]),
    "no convention": ({"convention": None}, ValueError, ['"official" or "paper"', "got None"]),
    "negative β": ({"weights": (1.5, -10)}, ValueError, ["(alpha, beta)", "not negative", "(1.5, -10.0)", "sign"]),
    "negative μ": (
        {"weights": (-0.005, 10), "convention": "paper"},
        ValueError,
        ["(mu, lambda)", "not negative", "(-0.005, 10.0)", "sign"],
    ),
    "infinite weight": ({"weights": (1, float("inf"))}, ValueError, ["(alpha, beta)", "finite", "(1.0, inf)"]),
    "weight that is no number": ({"weights": (float("nan"), 1)}, ValueError, ["finite", "(nan, 1.0)"]),
    "one weight": ({"weights": (1.5,)}, TypeError, ["two numbers, (alpha, beta)", "got (1.5,)"]),
    "a number": ({"weights": 1.5}, TypeError, ["two numbers, (alpha, beta)", "got 1.5"]),
    "three weights": ({"weights": (1, 2, 3)}, TypeError, ["two numbers, (alpha, beta)", "got (1, 2, 3)"]),
    "words": ({"weights": ("a", "b")}, TypeError, ["two numbers", "got ('a', 'b')"]),
    "smoothing above 1": ({"label_smoothing": 1.1}, ValueError, ["label_smoothing must be", "from 0 to 1", "got 1.1"]),
    "smoothing below 0": ({"label_smoothing": -0.1}, ValueError, ["label_smoothing must be", "from 0 to 1", "-0.1"]),
    "class weights of other classes": ({"class_weights": torch.ones(4)}, ValueError, ["must be (3,)", "got (4,)"]),
    "class weights of channels": ({"class_weights": torch.ones(3, 1)}, ValueError, ["must be (3,)", "got (3, 1)"]),
    "complex class weights": (
        {"class_weights": torch.ones(3) + 0j},
        TypeError,
        ["class_weights must be a tensor of real numbers", "got torch.complex64"],
    ),
    "true as ignore_index": ({"ignore_index": True}, TypeError, ["ignore_index must be an integer", "got True"]),
    "sparse class weights": (
        {"class_weights": torch.ones(3).to_sparse()},
        TypeError,
        ["class_weights must be an ordinary dense tensor", "sparse", ".to_dense()"],
    ),
    "seed for generator": (
        {"generator": 5},
        TypeError,
        ["generator must be a torch.Generator or None", "got 5", "seed"],
    ),
    "list of class weights": ({"class_weights": [1, 1, 1]}, TypeError, ["class_weights must be a tensor", "got list"]),
    "criterion": ({"criterion": 3}, TypeError, ["criterion must be callable", "got 3"]),
    "result for criterion": ({"criterion": torch.ones(4)}, TypeError, ["criterion must be callable", "shape (4,)"]),
    "criterion and smoothing": (
        {"criterion": torch.nn.functional.cross_entropy, "label_smoothing": 0.1},
        ValueError,
        ["label_smoothing, class_weights and ignore_index", "criterion"],
    ),
    "criterion and class weights": (
        {"criterion": torch.nn.functional.cross_entropy, "class_weights": torch.ones(3)},
        ValueError,
        ["label_smoothing, class_weights and ignore_index", "criterion"],
    ),
    "criterion and ignored index": (
        {"criterion": torch.nn.functional.cross_entropy, "ignore_index": 0},
        ValueError,
        ["label_smoothing, class_weights and ignore_index", "criterion"],
    ),
    "drop": ({"drop": 1}, ValueError, ["at least one channel to each class", "takes 1 from class 1, which has 1"]),
    "truth value for drop": ({"drop": False}, TypeError, ['drop must be "half", an integer', "got False"]),
    "string of weights": ({"weights": "12"}, TypeError, ["two numbers, (alpha, beta)", "got '12'"]),
    "a number as a string": ({"weights": (1.5, "20")}, TypeError, ["two numbers, (alpha, beta)", "got (1.5, '20')"]),
    "truth value for a weight": ({"weights": (True, 20)}, TypeError, ["two numbers, (alpha, beta)", "got (True, 20)"]),
    "truth value of NumPy": ({"weights": (1.5, np.True_)}, TypeError, ["two numbers, (alpha, beta)", "got (1.5, "]),
    "truth value for smoothing": ({"label_smoothing": True}, TypeError, ["label_smoothing must be", "got True"]),
    "smoothing that is no number": ({"label_smoothing": float("nan")}, ValueError, ["label_smoothing must be", "nan"]),
    "string for smoothing": ({"label_smoothing": "0.1"}, TypeError, ["label_smoothing must be a float", "got '0.1'"]),
    "negative class weight": (
        {"class_weights": torch.tensor([1.0, 0.0, -0.5])},
        ValueError,
        ["class_weights must be finite and not negative", "class 2 has -0.5"],
    ),
    "class weight that is no number": (
        {"class_weights": torch.tensor([1.0, float("nan"), 1.0])},
        ValueError,
        ["class_weights must be finite and not negative", "class 1 has nan"],
    ),
    "infinite class weight": (
        {"class_weights": torch.tensor([float("inf"), 1.0, 1.0])},
        ValueError,
        ["class_weights must be finite and not negative", "class 0 has inf"],
    ),
    "mapping of weights": ({"weights": {1: 2, 3: 4}}, TypeError, ["two numbers", "got {1: 2, 3: 4}"]),
    "list for convention": ({"convention": ["official"]}, ValueError, ['"official" or "paper"', "got ['official']"]),
    "no smoothing": (
        {"label_smoothing": None},
        TypeError,
        ["label_smoothing must be a float from 0 to 1", "got None"],
    ),
    "fraction for index": ({"ignore_index": 1.5}, TypeError, ["ignore_index must be an integer", "got 1.5"]),
    "mapping for drop": ({"drop": {0: 1, 1: 0, 2: 1}}, TypeError, ['"half"', "got {0: 1"]),
    "word for drop": ({"drop": "all"}, ValueError, ['drop must be "half"', "got 'all'"]),
}


@pytest.mark.parametrize(("settings", "error", "parts"), SETTING_ERRORS.values(), ids=SETTING_ERRORS)
def test_settings(settings, error, parts):
    with refuses(error, *parts):
        mc_loss(FEATURES, TARGETS, GROUPS, **settings)
    with refuses(error, *parts):
        MCLoss(GROUPS, **settings)


@pytest.mark.parametrize(
    ("result", "part"),
    [
        (torch.ones(4), "a torch.float32 tensor of shape (4,)"),
        (1.5, "1.5"),
        (None, "None"),
        (torch.ones(1), "a torch.float32 tensor of shape (1,)"),
        (torch.tensor(3), "a torch.int64 tensor of shape ()"),
    ],
)
def test_criterion_that_gives_no_scalar(result, part):
    with pytest.raises(ValueError, match="criterion must return a floating scalar tensor; got " + re.escape(part)):
        mc_loss(FEATURES, TARGETS, GROUPS, drop=0, criterion=lambda scores, targets: result)


def test_class_weights_on_another_device():
    with refuses(ValueError, "class_weights are on meta", "features are on cpu"):
        mc_loss(FEATURES, TARGETS, GROUPS, class_weights=torch.ones(3, device="meta"))


# Not finite

PLACES = {
    "in a kept channel": [(1, 0, 1, 2)],
    "in a masked channel": [(1, 1, 1, 2)],
    "in a class of one": [(2, 3, 0, 0)],
    "twice in a group": [(1, 0, 1, 2), (1, 2, 1, 2)],
    "in several classes": [(0, 0, 0, 0), (0, 4, 2, 4), (3, 5, 1, 1)],
    "everywhere in a channel": [(2, 4, row, column) for row in range(3) for column in range(5)],
    "everywhere in a group": [
        (2, channel, row, column) for channel in (4, 5) for row in range(3) for column in range(5)
    ],
}
VALUES = {"nan": [torch.nan], "inf": [torch.inf], "-inf": [-torch.inf], "mixed": [torch.nan, torch.inf, -torch.inf]}
MASK = torch.tensor([1, 0, 1, 1, 1, 0])


def spoiled(places, values, dtype=torch.float32):
    features = FEATURES.to(dtype, copy=True)
    for index, place in enumerate(places):
        features[place] = values[index % len(values)]
    return features


def assert_same_kind(found, expected):
    """NaN and the infinities where they are in ``expected``, nothing of it elsewhere, and the finite values equal."""
    torch.testing.assert_close(found.double(), expected.double(), rtol=0.01, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
def test_not_finite(places, values):
    layouts, masks = ["contiguous", "channels_last", "rows"], [None, MASK, make_mask("per sample", 4, 6)]
    for dtype, layout, mask in itertools.product([torch.float32, torch.float64, torch.bfloat16], layouts, masks):
        features = lay_out(spoiled(places, values, dtype), layout).requires_grad_()
        scores, diversity = channel_pool(features, GROUPS, mask)
        weight_g, weight_h = torch.rand(2, 4, 3, dtype=scores.dtype) + 0.5
        (gradient,) = torch.autograd.grad((scores, diversity), features, (weight_g, weight_h))
        (g, h), expected = by_oracle(features.double(), list(GROUPS.sizes), mask, weight_g.double(), weight_h.double())
        assert_same_kind(scores, g)
        assert_same_kind(diversity, h)
        assert_same_kind(gradient, expected)


@pytest.mark.parametrize("convention", ["official", "paper"])
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
def test_loss_is_not_finite_where_the_formula_is_not(places, values, convention):
    features = spoiled(places, values).requires_grad_()
    output = mc_loss(features, TARGETS, GROUPS, mask=MASK, convention=convention)
    if convention == "official":
        expected = oracle.official_loss(features, TARGETS, GROUPS.sizes, MASK, 1.5, 20)
    else:
        expected = oracle.paper_loss(features, TARGETS, GROUPS.sizes, MASK, 0.005, 10)
    assert_same_kind(output.loss, expected)
    found, wanted = (torch.autograd.grad(loss, features)[0] for loss in (output.loss, expected))
    assert found.isnan()[wanted.isnan()].all()


@pytest.mark.parametrize("drop", [0, "half"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_no_silent_finite_loss(value, drop):
    """One bad activation anywhere, with any mask; −inf alone is no maximum and has softmax 0, in the formula too."""
    for channel in range(6):
        for position in range(0, 15, 7):
            features = FEATURES.clone()
            features.flatten(2)[channel % 4, channel, position] = value
            output = mc_loss(features, TARGETS, GROUPS, drop=drop)
            assert not output.loss.isfinite()
            assert not output.diversity.isfinite()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_other_samples_and_classes_are_untouched(value):
    features = spoiled([(1, 0, 1, 2), (1, 2, 0, 0)], [value]).requires_grad_()
    clean = FEATURES.clone().requires_grad_()
    results, expected = channel_pool(features, GROUPS), channel_pool(clean, GROUPS)
    others = torch.ones(4, 3, dtype=torch.bool)
    others[1, 0] = False
    for found, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(found[others], wanted[others])
    (found,) = torch.autograd.grad(sum(result.sum() for result in results), features)
    (wanted,) = torch.autograd.grad(sum(result.sum() for result in expected), clean)
    channels = others.repeat_interleave(torch.tensor(GROUPS.sizes), dim=1)
    torch.testing.assert_close(found[channels], wanted[channels])


def test_float16_that_overflows_in_the_sum():
    """The mean of the largest float16 numbers is a float32 number."""
    features = make_features("constant", (2, 6, 20, 20), torch.float16) * 0 + 65504
    assert channel_pool(features, GROUPS).scores.tolist() == [[65504.0] * 3] * 2


def test_ignore_index_with_probabilities():
    with refuses(ValueError, "ignore_index=2", "probabilities"):
        mc_loss(FEATURES, torch.full((4, 3), 1 / 3), GROUPS, ignore_index=2)


@pytest.mark.parametrize("value", [-1.0, 0.5, float("nan")])
def test_mask_of_other_values(value):
    mask = torch.ones(6)
    mask[3] = value
    with refuses(ValueError, "zeros and ones only"):
        channel_pool(FEATURES, GROUPS, mask)


@pytest.mark.parametrize("batch_size", ["3", 2.5])
def test_batch_size_of_a_mask(batch_size):
    with refuses(TypeError, "batch_size must be an integer", f"got {batch_size!r}"):
        sample_channel_mask(GROUPS, batch_size=batch_size)


@pytest.mark.parametrize("classes", [None, "a"])
def test_classes_of_maps(classes):
    with refuses(TypeError, "classes must be integers", f"got {classes!r}"):
        class_maps(FEATURES, GROUPS, classes)


@pytest.mark.parametrize("call", [channel_pool, lambda features, groups: class_maps(features, groups, 0)])
def test_sparse_features(call):
    with refuses(TypeError, "features must be an ordinary dense tensor", "sparse", ".to_dense()"):
        call(FEATURES.to_sparse(), GROUPS)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
def test_nested_features(layout):
    nested = torch.nested.nested_tensor([torch.ones(2, 5), torch.ones(3, 5)], layout=layout)
    with refuses(TypeError, "features must be an ordinary dense tensor", "got a nested one"):
        channel_pool(nested, GROUPS)
