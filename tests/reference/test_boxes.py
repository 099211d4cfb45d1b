"""Boxes around what a map shows, on maps drawn by hand."""

import math

import pytest
import torch

from reference.channels.boxes import locate


def drawn(*rows: str) -> torch.Tensor:
    """A map of digits, one per position; a dot is 0."""
    return torch.tensor([[float(digit.replace(".", "0")) for digit in row] for row in rows])


@pytest.mark.parametrize(
    ("heat", "box"),
    [
        (drawn("......", "..99..", "..9...", "......"), (2, 1, 2, 2)),
        (drawn("9.....", ".....9", "....99", ".....9"), (4, 1, 2, 3)),  # the largest of two
        (drawn("9.....", "9....5", "9...55", "9..555"), (3, 1, 3, 3)),  # the largest, not the brightest
        (drawn("99....", "..9...", "...9..", "......"), (0, 0, 2, 1)),  # corners do not connect
        (drawn("......", "..9...", ".999..", "..9..."), (1, 1, 3, 3)),
        (drawn(".9....", ".9....", "...9..", "...9.."), (1, 0, 1, 2)),  # of equal ones the first
        (drawn("555555", "555555", "555555", "555555"), (0, 0, 6, 4)),
        (drawn(".1....", ".122..", "......", ".....9"), (2, 1, 2, 1)),  # of 9, 20 % lie between 1 and 2
    ],
    ids=["one", "largest", "not the brightest", "corners", "cross", "equal", "everywhere", "threshold"],
)
def test_by_hand(heat, box):
    assert locate(heat, (4, 6)) == box


def test_the_threshold_is_a_fraction_of_the_maximum_and_itself_out():
    heat = drawn("124", "...")
    assert locate(heat, (2, 3), 0.5) == (2, 0, 1, 1)
    assert locate(heat, (2, 3), 0.49) == (1, 0, 2, 1)
    assert locate(heat, (2, 3), 0) == (0, 0, 3, 1)
    assert locate(100 * heat, (2, 3), 0.49) == (1, 0, 2, 1)
    assert locate(drawn("15"), (1, 2)) == (1, 0, 1, 1)  # 1 is 20 % of 5
    assert locate(drawn(".8."), (1, 6), 0.3) == (1, 0, 4, 1)  # enlarged to 0 2 6 6 2 0: 2 is more than 30 % of 6


@pytest.mark.parametrize("heat", [torch.zeros(3, 4), -torch.ones(3, 4), drawn("..") - 5, torch.full((2, 2), math.nan)])
def test_nothing_active_has_no_box(heat):
    assert locate(heat, (30, 40)) is None


def test_pixels_are_those_of_the_image():
    """Enlarged 10 and 20 times; a linear slope falls to 20 % four fifths of the way to its neighbour's centre."""
    heat = torch.zeros(4, 3)
    heat[1, 2] = 7
    left, top, width, height = locate(heat, (40, 60))
    # Centres lie at 15 down and at 50 across; the slopes are 10 and 20 pixels long.
    assert (left, left + width) == (50 - 16, 60)
    assert (top, top + height) == (15 - 8, 15 + 8)


def test_the_maps_of_a_network_do():
    """Half precision, with a gradient."""
    heat = drawn("..", "4.").to(torch.bfloat16).requires_grad_()
    assert locate(heat, (2, 2)) == (0, 1, 1, 1)


@pytest.mark.parametrize("shape", [(1, 4, 4), (4,)])
def test_one_map_at_a_time(shape):
    with pytest.raises(ValueError, match=r"heat must be one map, \(H, W\); got"):
        locate(torch.ones(shape), (4, 4))


@pytest.mark.parametrize("threshold", [-0.1, 1, 20, math.nan])
def test_threshold_out_of_range(threshold):
    with pytest.raises(ValueError, match="threshold must be from 0 to below 1, a fraction of the maximum; got"):
        locate(torch.ones(4, 4), (4, 4), threshold)
