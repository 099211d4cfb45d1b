"""The kernels equal the oracle in float64, and eager where ties must be broken alike; interpreted where no GPU is."""

import inspect
from pathlib import Path

import pytest
import torch
from checks import (
    DTYPES,
    INTERLEAVED,
    KINDS,
    LAYOUTS,
    MASKS,
    NEAR_TIED,
    as_scalar,
    cases,
    check_pool,
    dtype_name,
    grads_of,
    lay_out,
    make_features,
    make_mask,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from triton.runtime.interpreter import GridExecutor

from mcl_triton import ChannelGroups, channel_pool, class_scores, diversity_scores
from mcl_triton.kernels import arithmetic, host, launch, position_blocks, tables, whole_maps
from reference.formulas import paper as oracle

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# Ways through the kernels, and the layouts that they are for: classes, or channels of cut classes, as the rows of a
# tile; and maps in blocks, as if they were large. Each with positions side by side, with channels, and with neither.
WAYS = {
    "rows": "contiguous",
    "columns": "channels_last",
    "strided": "batch last",
    "pieces of rows": "contiguous",
    "pieces of columns": "channels_last",
    "blocks of rows": "contiguous",
    "blocks of columns": "channels_last",
    "strided blocks": "batch last",
}


@pytest.fixture(autouse=True)
def memory_is_poisoned():
    """New tensors hold NaN until something else is written."""
    torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms would import Inductor, for seconds
    assert torch.empty(1, device=DEVICE).isnan()
    yield
    torch.set_deterministic_debug_mode("default")


@pytest.fixture(autouse=True)
def launches_are_chosen_anew():
    forget_launches()
    yield
    forget_launches()


def forget_launches() -> None:
    host.forget_launches()
    launch.choose_forward.cache_clear()
    launch.choose_backward.cache_clear()


@pytest.fixture
def layout(request, monkeypatch) -> str:
    """The layout of the features. A way brings one, and nothing but its kernels and tiles."""
    take_way(monkeypatch, request.param)
    return WAYS[request.param]


def take_way(monkeypatch, way: str) -> None:
    """Leave the other kernels out, and choose small tiles."""
    monkeypatch.setattr(host, "whole_maps" if "blocks" in way else "position_blocks", None)
    if "blocks" in way:
        monkeypatch.setattr(launch, "LARGEST_WHOLE_MAP", 0)
        limit_tiles(monkeypatch, 8)
    if "pieces" in way:
        monkeypatch.setattr(launch, "WORTH_SPLITTING", 0)
        monkeypatch.setattr(launch, "ENOUGH_WARPS", 1 << 30)
        monkeypatch.setattr(launch, "SHORTEST_PIECE", 2)
        monkeypatch.setattr(host, "tables_of", inspect.unwrap(tables.tables_of))  # which keeps what it has made
    forget_launches()


def limit_tiles(monkeypatch, positions: int) -> None:
    """Blocks of so few positions, and gradients of as few at a time."""
    tile = launch.Tile(2, positions // 2, 4, 1)
    for name in ("_BLOCK_OF_ROWS", "_BLOCK_OF_COLUMNS", "_STATISTICS_ROWS", "_STATISTICS_COLUMNS"):
        monkeypatch.setattr(launch, name, tile)
    for name in ("_GRADIENT_ROWS", "_GRADIENT_COLUMNS"):
        monkeypatch.setattr(launch, name, {1: tile})


def features_of(kind: str, shape: tuple[int, int, int, int], dtype: torch.dtype, layout: str, seed: int = 0):
    return lay_out(make_features(kind, shape, dtype, seed).to(DEVICE), layout)


def mask_of(kind: str, batch: int, channels: int):
    mask = make_mask(kind, batch, channels)
    return None if mask is None else mask.to(DEVICE)


def pool(features, sizes, mask=None, backend="triton"):
    return channel_pool(features, ChannelGroups(sizes), mask, backend=backend)


# Values and gradients


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_kinds_of_features(layout, kind, dtype):
    features = features_of(kind, (2, 20, 5, 7), dtype, layout)
    mask = make_mask("per sample", 2, 20)
    check_pool(features, INTERLEAVED, mask, grads_of(kind, dtype), allowed_near_ties=0.1, backend="triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=dtype_name)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("sizes", "mask"),
    [([4] * 5, "none"), ([3] * 4 + [4] * 2, "shared"), (INTERLEAVED, "per sample")],
    ids=["uniform", "ragged", "interleaved"],
)
def test_layouts(sizes, mask, layout, dtype):
    features = features_of("signed", (2, 20, 6, 7), dtype, layout)
    check_pool(features, sizes, make_mask(mask, 2, 20), allowed_near_ties=0.1, backend="triton")


@pytest.mark.skipif(DEVICE == "cuda", reason="on a GPU, Triton's release decides")
@pytest.mark.parametrize("layout", WAYS, indirect=True)
def test_the_other_order_of_axes(layout, monkeypatch):
    """As before Triton 3.7, or since."""
    other = not arithmetic.IN_REVERSE
    for module in (arithmetic, position_blocks, whole_maps):
        monkeypatch.setattr(module, "IN_REVERSE", other)
    features = features_of("signed", (2, 20, 5, 7), torch.float32, layout)
    check_pool(features, INTERLEAVED, make_mask("per sample", 2, 20), backend="triton")


@pytest.mark.parametrize("layout", WAYS, indirect=True)
@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ([1], (1, 1)),
        ([1] * 300, (1, 1)),  # more classes than a tile has
        ([73, 73], (1, 1)),
        ([1] * 9, (7, 7)),
        ([2] * 8 + [3] * 12, (7, 7)),  # 52 channels, many classes in a tile
        ([10] * 6 + [11] * 4, (7, 7)),  # 104 channels, divisible by more than the classes' first channels
        ([9, 20, 9], (14, 14)),
        ([5] * 3, (1, 300)),
        ([3, 3], (28, 28)),
        ([340, 20, 340], (1, 3)),
    ],
    ids=lambda value: repr(ChannelGroups(value)).removeprefix("ChannelGroups") if isinstance(value, list) else None,
)
def test_sizes(monkeypatch, sizes, shape, layout):
    features = features_of("relu", (2, sum(sizes), *shape), torch.float32, layout)
    check_pool(features, sizes, make_mask("shared", 2, sum(sizes)), allowed_near_ties=0.2, backend="triton")


@pytest.mark.parametrize(
    ("shape", "unused"), [((64, 64), "position_blocks"), ((65, 64), "whole_maps"), ((1, 4097), "whole_maps")]
)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_large_maps(monkeypatch, layout, shape, unused):
    monkeypatch.setattr(host, unused, None)
    features = features_of("signed", (2, 5, *shape), torch.float32, layout)
    check_pool(features, [1, 4], make_mask("per sample", 2, 5), backend="triton")


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("sizes", [[4] * 5, INTERLEAVED], ids=["uniform", "interleaved"])
@pytest.mark.parametrize("layout", [way for way in WAYS if " " in way], indirect=True)
def test_pieces_and_blocks(layout, sizes, dtype):
    features = features_of("relu", (2, 20, 5, 7), dtype, layout)
    check_pool(features, sizes, make_mask("per sample", 2, 20), allowed_near_ties=0.1, backend="triton")


def test_random_cases():
    left_out = compared = 0

    @settings(max_examples=30)
    @given(
        case=cases(),
        kind=st.sampled_from(KINDS),
        dtype=st.sampled_from(DTYPES),
        layout=st.sampled_from(LAYOUTS),
        mask=st.sampled_from(MASKS),
        way=st.sampled_from(["whole maps", "pieces", "blocks"]),
        grads=st.sampled_from(["both", "scores", "diversity"]),
        seed=st.integers(0, 1 << 20),
    )
    def check(case, kind, dtype, layout, mask, way, grads, seed):
        nonlocal left_out, compared
        sizes, shape = case
        shape = (min(shape[0], 2), shape[1], min(shape[2], 7), min(shape[3], 7))  # the interpreter is slow
        grads = "scores" if (kind, dtype) in NEAR_TIED else grads
        features = features_of(kind, shape, dtype, layout, seed)
        mask = make_mask(mask, shape[0], shape[1], seed)
        with pytest.MonkeyPatch.context() as patch:
            take_way(patch, way)
            left_out += check_pool(features, sizes, mask, grads, seed, allowed_near_ties=1, backend="triton")
        compared += shape[0] * len(sizes)

    check()
    assert left_out < 0.05 * compared


@pytest.mark.parametrize("layout", WAYS, indirect=True)
def test_gradcheck(layout):
    """Finite differences; both results, and each of them alone."""
    features = features_of("signed", (2, 9, 3, 2), torch.float64, layout).requires_grad_()
    mask = mask_of("per sample", 2, 9)
    for used in (slice(0, 2), slice(0, 1), slice(1, 2)):
        assert torch.autograd.gradcheck(lambda x, used=used: pool(x, [4, 1, 4], mask)[used], features, fast_mode=True)


# Ties


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=dtype_name)
@pytest.mark.parametrize("kind", ["integers", "few values", "signed zeros", "copies", "constant", "smallest"])
@pytest.mark.parametrize("layout", WAYS, indirect=True)
def test_ties_of_the_scores_are_broken_as_in_eager(monkeypatch, layout, kind, dtype):
    """By the first of equals; tests of the eager backend say so."""
    features = features_of(kind, (2, 20, 4, 8), dtype, layout).requires_grad_()  # 1/32 is exact by any division
    mask = mask_of("per sample", 2, 20)
    ours, eagers = (
        torch.autograd.grad(pool(features, INTERLEAVED, mask, backend).scores.sum(), features)[0]
        for backend in ("triton", "eager")
    )
    assert torch.equal(ours, eagers)


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("layout", WAYS, indirect=True)
def test_first_of_dead_channels_takes_the_gradient_of_the_diversity(layout, dtype):
    """Channels 1 to 9 are constant and tie at 1/P; channel 0 peaks in the first and the last block of positions."""
    positions = 256
    features = torch.zeros(2, 11, 16, 16, dtype=dtype)
    features[:, 0, 0, 0] = features[:, 0, 15, 15] = 6
    features[:, 2:10] = torch.arange(-4, 4).view(8, 1, 1)
    features = lay_out(features.to(DEVICE), layout).requires_grad_()
    (gradient,) = torch.autograd.grad(pool(features, [10, 1]).diversity[:, 0].sum(), features)
    assert (gradient.flatten(2) != 0).any(dim=2).tolist() == [[True, True] + [False] * 9] * 2
    # w = 254/256: each of the 254 that it wins gets (1 - w)/256, the other two get -w/256.
    expected = torch.full((16, 16), 2 / positions**2)
    expected[0, 0] = expected[15, 15] = -254 / positions**2
    assert torch.equal(gradient[0, 1].cpu().float(), expected)


# Not finite


def spoiled_features(dtype: torch.dtype) -> torch.Tensor:
    """(3, 20, 5, 9), trouble in many of the classes. A block of 32 positions ends in the fourth row."""
    features = make_features("signed", (3, 20, 5, 9), dtype)
    nan, inf = torch.nan, torch.inf
    features[0, 5, 4, 2] = nan
    features[0, 8, 0, 0], features[0, 9, 0, 0], features[0, 9, 4, 8] = nan, nan, nan  # the first of two, and one alone
    features[0, 18] = -inf  # a whole map
    features[1, 9, 4, 1], features[1, 10, 0, 3] = inf, inf
    features[1, 4:7, :4] = -inf  # a whole block of positions, of all channels of a class
    features[2, 4, 0, 1], features[2, 9, 4, 1], features[2, 15:17, 0, 2] = -inf, -inf, -inf
    features[2, 6, 0], features[2, 6, 4] = inf, -inf
    return features


@pytest.mark.parametrize(
    ("dtype", "used"),
    [(torch.float32, slice(0, 2)), (torch.float16, slice(0, 1)), (torch.bfloat16, slice(1, 2))],
    ids=["both", "scores", "diversity"],
)
@pytest.mark.parametrize("layout", WAYS, indirect=True)
def test_not_finite(monkeypatch, layout, dtype, used):
    """NaN and the infinities arise where the oracle has them, masked channels (0·∞ = NaN) among them."""
    mask = torch.ones(3, 20)
    mask[:, [1, 6, 9, 19]] = 0
    mask[0, 9] = 1
    weights = torch.rand(2, 3, 7) + 0.5
    leaf = spoiled_features(dtype).double().requires_grad_()
    expected = oracle.channel_pool(leaf, INTERLEAVED, mask)
    expected += torch.autograd.grad(expected[used], leaf, [*weights.double()][used])
    features = lay_out(spoiled_features(dtype).to(DEVICE), layout).requires_grad_()
    found = tuple(pool(features, INTERLEAVED, mask.to(DEVICE)))
    found += torch.autograd.grad(found[used], features, [*weights.to(features.device, found[0].dtype)][used])
    tolerance = {"rtol": max(1e-5, torch.finfo(dtype).eps), "atol": 1e-6, "equal_nan": True}
    for ours, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.cpu().double(), wanted, **tolerance)


# Gradients


@pytest.mark.parametrize("incoming", ["expanded", "transposed", "one element", "only scores", "only diversity"])
@pytest.mark.parametrize("layout", WAYS, indirect=True)
def test_incoming_gradients(layout, incoming):
    features = features_of("signed", (3, 20, 4, 5), torch.float64, layout).requires_grad_()
    mask = make_mask("per sample", 3, 20)
    (gradient,) = torch.autograd.grad(as_scalar(incoming, *pool(features, INTERLEAVED, mask.to(DEVICE))), features)
    leaf = features.detach().cpu().requires_grad_()
    (expected,) = torch.autograd.grad(as_scalar(incoming, *oracle.channel_pool(leaf, INTERLEAVED, mask)), leaf)
    torch.testing.assert_close(gradient.cpu(), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("layout", WAYS, indirect=True)
def test_two_runs_are_equal_bit_by_bit(layout):
    """Which says something on a GPU; the interpreter runs one program after the other."""
    features = features_of("signed", (2, 20, 5, 7), torch.float32, layout).requires_grad_()
    first, second = (
        (*results, *torch.autograd.grad(sum(result.cos().sum() for result in results), features))
        for results in (pool(features, INTERLEAVED), pool(features, INTERLEAVED))
    )
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


# More than 2³¹ elements apart


def lay_out_far(values: torch.Tensor, strides: tuple[int, ...], folder: Path) -> torch.Tensor:
    """The same values in the middle of a sparse file of some gigabytes: an offset that overflows ends up inside it."""
    middle = 1 << 31
    end = middle + sum((size - 1) * stride for size, stride in zip(values.shape, strides, strict=True)) + 1
    file = folder / "sparse"
    storage = torch.from_file(str(file), shared=True, size=end, dtype=values.dtype)
    file.unlink()  # it lives on as long as the tensor
    return storage.as_strided(values.shape, strides, middle).copy_(values)


@pytest.fixture
def without_copies(monkeypatch):
    """Triton's interpreter copies what it has written to the device, and so a whole file to itself."""
    if DEVICE != "cpu":
        pytest.skip("what lies in a file is on the CPU")
    monkeypatch.setattr(GridExecutor, "_restore_args_dev", lambda *_: None)


@pytest.mark.usefixtures("without_copies")
@pytest.mark.parametrize("far", [1 << 30, (1 << 31) + 16], ids=["product", "stride"])  # what is too large for int32
@pytest.mark.parametrize(
    "strides",
    [("far", 4, 1), (4, "far", 1), ("far", 1, 4), (4, 1, "far"), ("far", 8, 2), (8, "far", 2), (8, 2, "far")],
    ids=lambda strides: "-".join(map(str, strides)),
)
@pytest.mark.parametrize("way", ["whole maps", "pieces", "blocks"])
def test_features_and_gradient_far_apart(monkeypatch, tmp_path, way, strides, far):
    take_way(monkeypatch, way)
    strides = tuple(far if stride == "far" else stride for stride in strides)
    features = lay_out_far(make_features("signed", (4, 4, 2, 2), torch.bfloat16).flatten(2), strides, tmp_path)
    empty_like = torch.empty_like

    def far_apart(like: torch.Tensor) -> torch.Tensor:
        """An empty gradient of the features, as far apart; results as usual."""
        if like.dim() != features.dim():
            return empty_like(like)
        return lay_out_far(torch.full(like.shape, torch.nan, dtype=like.dtype), strides, tmp_path)

    monkeypatch.setattr(torch, "empty_like", far_apart)
    check_pool(features, [1, 3], make_mask("per sample", 4, 4), backend="triton")


@pytest.mark.usefixtures("without_copies")
@pytest.mark.parametrize("strides", [(1 << 30, 1), (1, 1 << 30)], ids=["samples", "channels and classes"])
@pytest.mark.parametrize("layout", WAYS, indirect=True)
def test_mask_and_incoming_gradients_far_apart(tmp_path, layout, strides):
    features = features_of("signed", (4, 4, 3, 3), torch.float32, layout).requires_grad_()
    near = [make_mask("per sample", 4, 4), *torch.randn(2, 4, 3)]
    outcomes = []
    for mask, *weights in (near, [lay_out_far(values, strides, tmp_path) for values in near]):
        results = pool(features, [2, 1, 1], mask)
        outcomes.append((*results, *torch.autograd.grad(results, features, weights)))
    for one, other in zip(*outcomes, strict=True):
        assert torch.equal(one, other)


# One of the two results


@pytest.mark.parametrize("backend", ["eager", "triton"])
@pytest.mark.parametrize("layout", WAYS, indirect=True)
def test_each_result_alone(layout, backend):
    features = features_of("relu", (2, 20, 5, 7), torch.float32, layout).requires_grad_()
    mask, groups = mask_of("per sample", 2, 20), ChannelGroups(INTERLEAVED)
    both = channel_pool(features, groups, mask, backend=backend)
    alone = (
        class_scores(features, groups, mask, backend=backend),
        diversity_scores(features, groups, backend=backend),
    )
    weight = torch.randn(2, 7).to(DEVICE)
    for found, expected in zip(alone, both, strict=True):
        assert torch.equal(found, expected)
        ours, wanted = (
            torch.autograd.grad(result, features, weight, retain_graph=True)[0] for result in (found, expected)
        )
        assert wanted.any()
        assert torch.equal(ours, wanted)


def test_scores_alone_take_no_softmax(monkeypatch):
    monkeypatch.delattr(torch, "softmax")
    features = features_of("signed", (2, 20, 5, 7), torch.float32, "contiguous").requires_grad_()
    with pytest.raises(AttributeError, match="softmax"):
        channel_pool(features, ChannelGroups(INTERLEAVED), backend="eager")
    class_scores(features, ChannelGroups(INTERLEAVED), backend="eager").sum().backward()


@pytest.mark.parametrize("layout", WAYS, indirect=True)
def test_what_is_saved_for_backward(layout):
    """Besides features and mask: two numbers per map, but not for the scores alone, and the winners."""
    features = features_of("signed", (2, 20, 5, 7), torch.bfloat16, layout).requires_grad_()
    groups, mask = ChannelGroups(INTERLEAVED), mask_of("per sample", 2, 20)

    def num_saved(function, *arguments) -> int:
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda x: x):
            function(features, groups, *arguments, backend="triton")
        return sum(tensor.numel() for tensor in saved) - features.numel()

    winners = 2 * len(INTERLEAVED) * 5 * 7
    assert num_saved(channel_pool, mask) == mask.numel() + 2 * 2 * 20 + winners
    assert num_saved(diversity_scores) == 2 * 2 * 20 + winners
    assert num_saved(class_scores, mask) == mask.numel() + winners
