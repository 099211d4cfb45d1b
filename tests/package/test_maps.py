"""`class_maps` picks a class's channels, or their maximum."""

import pytest
import torch

from mcl_triton import ChannelGroups, class_maps

GROUPS = ChannelGroups([3, 1, 2, 4])
FEATURES = torch.randn(3, 10, 4, 5, generator=torch.Generator().manual_seed(1))


def maps_by_loops(features, classes, reduce):
    """`classes` are nested lists, (B, K)."""
    samples = []
    for sample, of_sample in zip(features, classes, strict=True):
        maps = []
        for class_index in of_sample:
            first = sum(GROUPS.sizes[:class_index])
            own = [sample[channel] for channel in range(first, first + GROUPS.sizes[class_index])]
            if reduce == "max":
                largest = own[0]
                for channel in own[1:]:
                    largest = torch.where(channel > largest, channel, largest)
                maps.append(largest)
            else:
                maps.append(torch.stack(own + [torch.zeros_like(own[0])] * (4 - len(own))))
        samples.append(torch.stack(maps))
    return torch.stack(samples)


@pytest.mark.parametrize("layout", ["map", "channels_last", "rows"])
@pytest.mark.parametrize("reduce", ["max", None])
@pytest.mark.parametrize(
    ("classes", "as_lists"),
    [
        (2, [[2]] * 3),
        (torch.tensor(3), [[3]] * 3),
        (torch.tensor([1, 0, 3]), [[1], [0], [3]]),
        (torch.tensor([1, 0, 3], dtype=torch.uint8), [[1], [0], [3]]),
        (torch.tensor([[0, 1], [3, 3], [2, 0]]), [[0, 1], [3, 3], [2, 0]]),
        (torch.tensor([[3, 2, 1, 0, 0]] * 3, dtype=torch.int32), [[3, 2, 1, 0, 0]] * 3),
        ([1, 0, 3], [[1], [0], [3]]),
    ],
    ids=["int", "scalar", "one a sample", "uint8", "several", "int32", "list"],
)
def test_against_loops(classes, as_lists, reduce, layout):
    features = {
        "map": FEATURES,
        "channels_last": FEATURES.contiguous(memory_format=torch.channels_last),
        "rows": FEATURES.flatten(2),
    }[layout]
    found = class_maps(features, GROUPS, classes, reduce=reduce)
    expected = maps_by_loops(features, as_lists, reduce)
    assert found.shape == expected.shape
    assert torch.equal(found, expected)


def test_maximum_is_the_default():
    assert torch.equal(class_maps(FEATURES, GROUPS, 0), class_maps(FEATURES, GROUPS, 0, reduce="max"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_of_the_features(dtype):
    assert class_maps(FEATURES.to(dtype), GROUPS, 1).dtype == dtype


def test_no_classes():
    empty = torch.zeros(3, 0, dtype=torch.long)
    assert class_maps(FEATURES, GROUPS, empty).shape == (3, 0, 4, 5)
    assert class_maps(FEATURES, GROUPS, empty, reduce=None).shape == (3, 0, 4, 4, 5)


@pytest.mark.parametrize("reduce", ["max", None])
def test_differentiable(reduce):
    features = FEATURES[:, :, :2, :2].double().requires_grad_()
    classes = torch.tensor([[0, 3], [1, 2], [2, 2]])
    assert torch.autograd.gradcheck(lambda x: class_maps(x, GROUPS, classes, reduce=reduce), features)


def test_a_channel_that_repeats_for_padding_gets_its_gradient_once():
    features = torch.ones(1, 10, 1, 1, requires_grad=True)
    class_maps(features, GROUPS, 2).sum().backward()
    assert features.grad.sum() == 1
    assert features.grad[0, [4, 5]].sum() == 1


def test_nan_is_seen():
    features = FEATURES.clone()
    features[0, 1, 2, 3] = torch.nan
    assert class_maps(features, GROUPS, 0)[0, 0].isnan().nonzero().tolist() == [[2, 3]]
    assert not class_maps(features, GROUPS, 1).isnan().any()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((FEATURES, [3, 1, 2, 4], 0), TypeError, "groups must be a ChannelGroups; got list"),
        ((FEATURES[0], GROUPS, 0), ValueError, r"features must be \(B, 10, H, W\).*got \(10, 4, 5\)"),
        ((FEATURES[0, 0], GROUPS, 0), ValueError, r"features must be \(B, 10, H, W\).*got \(4, 5\)"),
        ((FEATURES[:, :9], GROUPS, 0), ValueError, r"features must be \(B, 10, H, W\).*got \(3, 9, 4, 5\)"),
        ((FEATURES[:0], GROUPS, 0), ValueError, r"features must .*got \(0, 10, 4, 5\)"),
        ((FEATURES, GROUPS, 4), ValueError, "classes must be from 0 to 3; got values from 4 to 4"),
        ((FEATURES, GROUPS, -1), ValueError, "classes must be from 0 to 3; got values from -1"),
        ((FEATURES, GROUPS, torch.tensor([0, 1])), ValueError, r"classes must be \(B,\).*B = 3.*got \(2,\)"),
        ((FEATURES, GROUPS, torch.zeros(3, 1, 1).long()), ValueError, r"classes must be \(B,\).*got \(3, 1, 1\)"),
        ((FEATURES, GROUPS, 1.0), TypeError, "classes must be integers; got torch.float32"),
        ((FEATURES, GROUPS, torch.tensor([True] * 3)), TypeError, "classes must be integers; got torch.bool"),
        ((FEATURES.numpy(), GROUPS, 0), TypeError, "features must be a tensor"),
    ],
    ids=[
        *["list of sizes", "no batch", "matrix", "too few channels", "empty batch", "too large", "negative"],
        *["too few", "three dimensions", "float", "truth values", "array"],
    ],
)
def test_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        class_maps(*arguments)


@pytest.mark.parametrize("reduce", ["mean", "", 0, False])
def test_bad_reduce(reduce):
    with pytest.raises(ValueError, match='reduce must be "max" or None; got'):
        class_maps(FEATURES, GROUPS, 0, reduce=reduce)
