"""`ChannelGroups`: which class owns which channels, and that it is a value like a tuple."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcl_triton import ChannelGroups


@pytest.mark.parametrize(
    ("channels", "classes", "expected"),
    [
        (512, 200, [(88, 2), (112, 3)]),
        (512, 100, [(88, 5), (12, 6)]),
        (512, 196, [(76, 2), (120, 3)]),
        (512, 102, [(100, 5), (2, 6)]),
        (2048, 200, [(152, 10), (48, 11)]),
        (2048, 100, [(52, 20), (48, 21)]),
        (2048, 196, [(108, 10), (88, 11)]),
        (2048, 102, [(94, 20), (8, 21)]),
        (600, 200, [(200, 3)]),
        (7, 7, [(7, 1)]),
        (512, 1, [(1, 512)]),
        (512, 7, [(6, 73), (1, 74)]),
    ],
)
def test_splits_of_usual_backbones(channels, classes, expected):
    groups = ChannelGroups.split(channels, classes)
    assert list(groups.sizes) == [size for count, size in expected for _ in range(count)]
    assert groups.num_channels == channels
    assert groups.num_classes == classes
    assert groups.is_uniform == (len(expected) == 1)


@given(st.integers(1, 400), st.integers(0, 2000))
def test_split_is_as_even_as_possible(classes, more):
    groups = ChannelGroups.split(classes + more, classes)
    assert sum(groups.sizes) == classes + more
    assert len(groups.sizes) == classes
    assert list(groups.sizes) == sorted(groups.sizes)
    assert max(groups.sizes) - min(groups.sizes) <= 1


@given(st.lists(st.integers(1, 12), min_size=1, max_size=30))
def test_offsets_and_runs(sizes):
    groups = ChannelGroups(sizes)
    owners = [class_index for class_index, size in enumerate(sizes) for _ in range(size)]
    assert groups.sizes == tuple(sizes)
    assert list(groups.offsets) == [owners.index(class_index) for class_index in range(len(sizes))]
    assert groups.num_channels == len(owners)
    assert groups.num_classes == len(sizes)
    assert groups.is_uniform == (len(set(sizes)) == 1)
    assert [size for count, size in groups.runs for _ in range(count)] == sizes
    assert all(left[1] != right[1] for left, right in zip(groups.runs, groups.runs[1:], strict=False))


def test_uniform():
    assert ChannelGroups.uniform(4, 3) == ChannelGroups([3, 3, 3, 3])
    assert ChannelGroups.uniform(4, 3).is_uniform
    assert ChannelGroups.uniform(1, 1).sizes == (1,)


def test_any_iterable_of_integers():
    class Three:
        def __index__(self):
            return 3

    assert ChannelGroups(size for size in (3, 2)).sizes == (3, 2)
    assert ChannelGroups([Three()]).sizes == (3,)
    assert type(ChannelGroups([Three()]).sizes[0]) is int


def test_equality_and_hash():
    groups, same, other = ChannelGroups([3, 3, 2]), ChannelGroups((3, 3, 2)), ChannelGroups([3, 2, 3])
    assert groups == same
    assert hash(groups) == hash(same)
    assert groups != other
    assert groups != (3, 3, 2)
    assert {groups: 1}[same] == 1
    assert len({groups, same, other}) == 2


@pytest.mark.parametrize(
    "attribute", ["sizes", "offsets", "runs", "num_classes", "num_channels", "is_uniform", "something_new"]
)
def test_immutable(attribute):
    groups = ChannelGroups([3, 3, 2])
    with pytest.raises(AttributeError, match="immutable"):
        setattr(groups, attribute, 1)
    with pytest.raises(AttributeError, match="immutable"):
        delattr(groups, attribute)
    assert groups == ChannelGroups([3, 3, 2])


def test_copies_and_pickles():
    groups = ChannelGroups([3, 3, 2, 5])
    for other in (copy.copy(groups), copy.deepcopy(groups), pickle.loads(pickle.dumps(groups))):
        assert other == groups
        assert hash(other) == hash(groups)
        assert (other.sizes, other.offsets, other.runs) == (groups.sizes, groups.offsets, groups.runs)


def test_repr_is_small():
    assert repr(ChannelGroups([3, 3, 2])) == "ChannelGroups(2x3 + 1x2)"
    assert repr(ChannelGroups.split(2048, 200)) == "ChannelGroups(152x10 + 48x11)"
    assert repr(ChannelGroups([1, 2, 1, 2, 4])) == "ChannelGroups(5 classes of 1 to 4 channels, 10 in all)"
    many = repr(ChannelGroups([1, 2] * 500))
    assert len(many) < 100
    assert "1000 classes" in many
    assert "1500" in many
