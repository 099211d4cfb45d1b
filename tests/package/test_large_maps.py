"""The kernels on maps of more than 4096 positions, which no program holds whole, in memory of random strides."""

import pytest
import torch
from checks import DTYPES, KINDS, MASKS, NEAR_TIED, check_pool, make_features, make_mask
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # where the kernels are interpreted
LARGEST = 9_000  # positions
# Sums go block by block, at most 70 blocks of 128 positions or more, with a rounding each; in float64, where blocks may
# have 32, 32 of them at a time. A position that is left out of the mean would be off by 1/9000, more than 900 roundings
# of float32.
ROUNDINGS = 70


@st.composite
def cases(draw):
    """Groups, the shape (B, N, H, W) of features, and how they lie in memory."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    width = draw(st.integers(1, LARGEST))
    height = draw(st.integers(-(-4097 // width), max(LARGEST // width, -(-4097 // width))))
    shape = (draw(st.integers(1, 2)), sum(sizes), height, width)
    places = [(draw(st.integers(1, 2)), draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in shape]
    return sizes, shape, draw(st.permutations(range(4))), places, draw(st.booleans())


def lay_out_at(features, order, places, is_expanded):
    """The features in an order of dimensions, each with a step, and so many elements before and after that are 7.

    Where they are expanded, the batch is one sample seen several times.
    """
    if is_expanded:
        features = features[:1]
    lengths = [
        before + length * step + after for length, (step, before, after) in zip(features.shape, places, strict=True)
    ]
    memory = features.new_full([lengths[dim] for dim in order], 7.0).permute([order.index(dim) for dim in range(4)])
    view = memory[
        tuple(
            slice(before, before + length * step, step)
            for length, (step, before, _) in zip(features.shape, places, strict=True)
        )
    ]
    return view.copy_(features)


def check(case, kind, dtype, mask, grads, seed):
    """Compare one case with the oracle; returns how many near-ties were left out, and of how many pairs."""
    sizes, shape, order, places, is_expanded = case
    grads = "scores" if (kind, dtype) in NEAR_TIED else grads
    features = lay_out_at(make_features(kind, shape, dtype, seed).to(DEVICE), order, places, is_expanded)
    if is_expanded:
        features = features.expand(shape)
    mask = make_mask(mask, shape[0], shape[1], seed)
    left_out = check_pool(
        features, sizes, mask, grads, seed, allowed_near_ties=1, backend="triton", roundings=ROUNDINGS
    )
    return left_out, shape[0] * len(sizes)


RANDOM_CASES = {
    "case": cases(),
    "kind": st.sampled_from(KINDS),
    "dtype": st.sampled_from(DTYPES),
    "mask": st.sampled_from(MASKS),
    "grads": st.sampled_from(["both", "scores", "diversity"]),
    "seed": st.integers(0, 1 << 20),
}


def test_random_strides():
    left_out = compared = 0

    @settings(max_examples=20)
    @given(**RANDOM_CASES)
    def check_each(**case):
        nonlocal left_out, compared
        of_case = check(**case)
        left_out += of_case[0]
        compared += of_case[1]

    check_each()
    assert left_out < 0.2 * compared
