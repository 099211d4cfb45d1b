"""The overlap of a class's channels equals its definition, written with sets."""

import math

import pytest
import torch
from overlap_by_sets import overlap_by_sets

from mcl_triton import ChannelGroups
from reference.channels.overlap import channel_overlap

GROUPS = ChannelGroups([3, 1, 2, 4])
CLASSES = torch.tensor([0, 3, 2, 1, 3, 0])


def random_features(kind: str, *map_shape: int) -> torch.Tensor:
    features = torch.randn(6, 10, *map_shape, generator=torch.Generator().manual_seed(5))
    # Channels of a class are alike, so that they do overlap.
    features = features + 2 * features[:, :1]
    if kind == "after ReLU":
        return (features - 4).relu()  # mostly zeros, and some channels are dead
    if kind == "ties":
        return features.round()
    return features


@pytest.mark.parametrize("map_shape", [(14, 14), (7, 5), (5, 2), (11, 1), (1, 1), (40,)])
@pytest.mark.parametrize("kind", ["signed", "after ReLU", "ties"])
def test_against_sets(kind, map_shape):
    features = random_features(kind, *map_shape)
    expected = overlap_by_sets(features, GROUPS, CLASSES)
    found = channel_overlap(features, GROUPS, CLASSES)
    assert found.shape == (6,)
    assert found.tolist() == pytest.approx(expected, rel=1e-6, nan_ok=True)


def test_the_examples_hold_all_there_is_to_see():
    """Overlaps between 0 and 1 for every class of several channels, and dead channels beside others."""
    expected = overlap_by_sets(random_features("signed", 14, 14), GROUPS, CLASSES)
    assert all(0 < value < 1 for value, index in zip(expected, CLASSES.tolist(), strict=True) if index != 1)
    small = random_features("after ReLU", 7, 5).flatten(2)
    assert (small.amax(dim=2) == 0).any()
    # Fewer active positions than a tenth.
    assert ((small > 0).sum(dim=2) == 1).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_any_dtype_and_layout(dtype):
    features = random_features("signed", 14, 14).to(dtype).contiguous(memory_format=torch.channels_last)
    found = channel_overlap(features, GROUPS, CLASSES)
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(overlap_by_sets(features, GROUPS, CLASSES), rel=1e-6, nan_ok=True)


def one_class(*channels: list[float]) -> float:
    features = torch.tensor(channels)[None]
    return channel_overlap(features, ChannelGroups([len(channels)]), torch.tensor([0])).item()


def places(*active: int, of: int = 20) -> list[float]:
    return [float(place in active) for place in range(of)]


def test_identical_channels_overlap_fully():
    values = torch.randn(20).tolist()
    assert one_class(values, values, values) == 1
    assert one_class(values, [5 * value - 3 for value in values]) == 1  # only the order counts


def test_disjoint_channels_do_not_overlap():
    assert one_class(places(0, 1), places(2, 3), places(18, 19)) == 0


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        ([places(0, 1), places(1, 2)], 1 / 3),
        ([places(0, 1), places(1, 2), places(1)], (1 / 3 + 1 / 2 + 1 / 2) / 3),
        ([[0.0] * 17 + [1, 3, 2], [0.0] * 17 + [3, 1, 2]], 1 / 3),  # two of twenty, the third largest is out
        ([places(4), places(5)], 0),  # one active place each: the zeros do not fill up the two
        ([places(0, 1, 2, 3), places(3, 4)], 1 / 5),  # four equal ones are all in
        ([places(0, of=21), places(0, of=21)], 1),
        ([[*places(of=18), 1, 2, 3], [*places(of=18), 4, 5, 6]], 1),  # three of twenty-one
        ([[*places(of=17), 1, 2, 3, 0], [*places(of=17), 0, 5, 6, 7]], 1 / 2),
    ],
)
def test_by_hand(channels, expected):
    assert one_class(*channels) == pytest.approx(expected)


@pytest.mark.parametrize("dead", [[0.0] * 20, [3.0] * 20, [-2.0] * 20, [math.nan, *range(19)]])
def test_a_channel_that_is_the_same_everywhere_or_not_a_number_does_not_count(dead):
    assert one_class(places(0, 1), dead, places(1, 2), dead) == pytest.approx(1 / 3)
    assert math.isnan(one_class(places(0, 1), dead))
    assert math.isnan(one_class(dead, dead))


def test_one_channel_has_no_overlap():
    assert math.isnan(one_class(places(0, 1)))


def test_where_the_places_are_does_not_matter():
    features = random_features("ties", 7, 5)
    expected = channel_overlap(features, GROUPS, CLASSES)
    shuffled = features.flatten(2)[:, :, torch.randperm(35)]
    torch.testing.assert_close(channel_overlap(shuffled, GROUPS, CLASSES), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("classes", [torch.zeros(6, 2).long(), torch.tensor(1)])
def test_one_class_an_image(classes):
    with pytest.raises(ValueError, match=r"classes must be one for each image, \(B,\); got"):
        channel_overlap(random_features("signed", 7, 5), GROUPS, classes)


def test_a_class_that_is_not_there():
    with pytest.raises(ValueError, match="classes must be from 0 to 3; got values from 1 to 4"):
        channel_overlap(random_features("signed", 7, 5), GROUPS, torch.tensor([1, 2, 3, 4, 1, 1]))
