"""The number of kernels that a step launches, counted without a GPU."""

import pytest
import torch
from checks import INTERLEAVED, lay_out, make_features, make_mask

from bench.cases import Case
from bench.count.launches import CASES, CONVENTIONS, MASKS, CountedLaunch, count_launches, ours, step_of
from bench.providers import official, plain
from mcl_triton import ChannelGroups, channel_pool, class_scores, diversity_scores, mc_loss

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WHERE = "cuda" if torch.cuda.is_available() else "meta"
RAGGED = ChannelGroups(INTERLEAVED)


def names(launches):
    return [launch.name for launch in launches]


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("mask_is", MASKS)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_step(convention, mask_is, kind):
    """Two for a drawn mask, pooling, the loss head, and the gradient of the features."""
    step = step_of(ours(convention, mask_is), CASES[kind], WHERE)
    drawing = ["randint", "mask_kernel"] if mask_is == "drawn" else []
    assert names(step.forward) == [*drawing, "forward_kernel", "head_kernel"]
    assert names(step.backward) == ["backward_kernel"]


OPTIONS = {
    "everything": {"label_smoothing": 0.1, "class_weights": torch.ones(4), "ignore_index": 1},
    "one component": {"weights": (1.0, 0.0)},
    "the other": {"weights": (0.0, 1.0)},
    "targets of 32 bits": {},
    "float64": {},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options_of_the_loss_launch_nothing_more(option):
    case, dtype = CASES["ragged"], torch.float64 if option == "float64" else torch.float32
    features = torch.empty(2, 14, 3, 3, device=WHERE, dtype=dtype, requires_grad=True)
    mask, one = (torch.ones(shape, device=WHERE, dtype=dtype) for shape in ((14,), ()))
    targets = torch.zeros(2, device=WHERE, dtype=torch.int32 if "32" in option else torch.long)
    options = {name: of.to(WHERE) if name == "class_weights" else of for name, of in OPTIONS[option].items()}
    with count_launches() as launches:
        loss = mc_loss(features, targets, case.groups, mask=mask, backend="triton", **options).loss
        torch.autograd.grad(loss, features, one)
    assert names(launches) == ["forward_kernel", "head_kernel", "backward_kernel"]


@pytest.mark.parametrize("kind", CASES)
def test_step_of_more_classes_with_more_channels(kind):
    larger = {"uniform": ChannelGroups.uniform(64, 12), "ragged": ChannelGroups.split(790, 64)}
    loss = ours("official", "drawn")
    large, small = (step_of(loss, case, WHERE) for case in (Case(8, larger[kind], 5), CASES[kind]))
    assert [*map(names, large)] == [*map(names, small)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU nothing is counted on the device meta")
@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("loss", [plain, official, ours("official", "given")])
def test_tensors_without_data_launch_the_same(loss, kind):
    assert step_of(loss, CASES[kind], "meta") == step_of(loss, CASES[kind], "cpu")


@pytest.mark.parametrize("formula", [plain, official])
@pytest.mark.parametrize("kind", CASES)
def test_less_than_half_of_the_formulas(kind, formula):
    theirs, step = (step_of(loss, CASES[kind], WHERE) for loss in (formula, ours("official", "given")))
    assert 2 * step.total < theirs.total


def gradient(results, features):
    """Gradients that are expanded, as a sum makes them, and those that are transposed."""
    grads = [result.new_ones(()).expand_as(result) for result in results[:1]]
    grads += [torch.ones_like(result.t()).t() for result in results[1:]]
    with count_launches() as launches:
        torch.autograd.grad(results, features, grads)
    return names(launches)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "rows", "sliced channels", "every second channel"])
@pytest.mark.parametrize("mask_kind", ["none", "shared", "per sample"])
def test_pooling_is_one_launch(mask_kind, layout):
    features = lay_out(make_features("signed", (2, 20, 5, 4), torch.bfloat16).to(DEVICE), layout).requires_grad_()
    mask = make_mask(mask_kind, 2, 20)
    with count_launches() as forward:
        results = channel_pool(features, RAGGED, None if mask is None else mask.to(DEVICE), backend="triton")
    assert names(forward) == ["forward_kernel"]
    assert gradient([*results], features) == ["backward_kernel"]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_pooling_of_large_maps_takes_two_more(layout):
    """A map of 66×66 is too large for a program: the softmax first, and sums over blocks at last."""
    features = lay_out(make_features("signed", (1, 3, 66, 66), torch.float32).to(DEVICE), layout).requires_grad_()
    with count_launches() as forward:
        results = channel_pool(features, ChannelGroups([1, 2]), backend="triton")
    assert names(forward) == ["statistics_kernel", "forward_kernel", "sum_kernel"]
    assert gradient([*results], features) == ["backward_kernel"]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_pooling_of_split_groups_takes_one_more(layout):
    features = lay_out(make_features("signed", (1, 700, 20, 20), torch.float32).to(DEVICE), layout).requires_grad_()
    with count_launches() as forward:
        results = channel_pool(features, ChannelGroups([1, 699]), backend="triton")
    assert names(forward) == ["forward_kernel", "combine_kernel"]
    assert gradient([*results], features) == ["backward_kernel"]


@pytest.mark.parametrize("pool", [class_scores, diversity_scores])
def test_one_result_is_one_launch(pool):
    features = make_features("signed", (2, 20, 5, 4), torch.float32).to(DEVICE).requires_grad_()
    with count_launches() as forward:
        result = pool(features, RAGGED, backend="triton")
    assert names(forward) == ["forward_kernel"]
    assert gradient([result], features) == ["backward_kernel"]


def test_copies_around_a_kernel_count():
    """H and W of these features cannot be joined: they are copied, and so is their gradient."""
    features = lay_out(make_features("signed", (2, 20, 5, 4), torch.float32), "transposed map").to(DEVICE)
    features.requires_grad_()
    with count_launches() as forward:
        results = channel_pool(features, RAGGED, backend="triton")
    assert names(forward) == ["clone", "forward_kernel"]
    backward = gradient([*results], features)
    assert backward.count("backward_kernel") == 1
    assert set(backward) == {"clone", "backward_kernel", "copy_"}


def test_what_counts():
    x = torch.rand(3, 4, device=DEVICE)
    with count_launches() as launches:
        x.t(), x.view(-1), x[0], x.detach(), x.expand(2, 3, 4), x.unfold(1, 2, 1), x.chunk(2), x.reshape(4, 3)
        torch.empty_like(x), x.new_empty(3), torch.empty(5, device=DEVICE), x.to(torch.float32), x.contiguous()
    assert launches == []
    with count_launches() as launches:
        x.add_(1).relu()
        torch.zeros(3, device=DEVICE)
        x.t().reshape(12)
        x.to(torch.bfloat16)
        x.sum().item()
        x[0].copy_(x[1])
    assert names(launches) == ["add_", "relu", "zeros", "clone", "_to_copy", "sum", "_local_scalar_dense", "copy_"]


# Bytes


def moved(function):
    with count_launches() as launches:
        function()
    return [launch.nbytes for launch in launches]


def test_bytes_that_operators_move():
    x, row, out = torch.rand(30, 40, device=DEVICE), torch.rand(40, device=DEVICE), torch.empty(30, 40, device=DEVICE)
    assert moved(lambda: x + row) == [4800 + 160 + 4800]
    assert moved(lambda: x + row.expand(30, 40)) == [4800 + 160 + 4800]  # what is expanded is there once
    assert moved(lambda: x.add_(1)) == [4800 + 4800]
    assert moved(lambda: out.copy_(x)) == [4800 + 4800]
    assert moved(lambda: out.zero_()) == [4800]
    assert moved(lambda: x.bfloat16()) == [4800 + 2400]
    assert moved(lambda: x[:, :10] * 2) == [1200 + 1200]
    assert moved(lambda: x.sum(1)) == [4800 + 120]
    assert moved(lambda: x.max(1)) == [4800 + 120 + 240]  # values, and indices of 8 bytes
    assert moved(lambda: (x.t(), x.view(-1), torch.empty_like(x))) == []
    assert moved(lambda: torch.cat([x, x[:, :10]], 1)) == [4800 + 1200 + 6000]


def test_bytes_of_gradients():
    """A maximum has zeros, and a winner for each; for an average the shape of the maps counts."""
    x = torch.rand(2, 3, 4, 5, device=DEVICE, requires_grad=True)  # 480 bytes
    values = x.max(dim=1).values  # 160 bytes
    grad = torch.ones_like(values)
    assert moved(lambda: torch.autograd.grad(values, x, grad)) == [480, 320 + 160 + 160]
    pooled = torch.nn.functional.avg_pool2d(x, (4, 5))  # 24 bytes
    grad = torch.ones_like(pooled)
    assert moved(lambda: torch.autograd.grad(pooled, x, grad)) == [24 + 480]
    pooled, _ = torch.nn.functional.max_pool2d(x, (4, 5), return_indices=True)
    assert moved(lambda: torch.autograd.grad(pooled, x, grad)) == [24 + 48 + 480]


def test_bytes_of_the_plain_formula():
    """Per map of 196 positions, in its own size: what each operator that sees the maps reads and writes."""
    case = Case(2, ChannelGroups.uniform(5, 4), 14)
    step = step_of(plain, case)
    groups = 1 / 4  # a number for each class and position; its index is twice as large
    # softmax, M·F, the two maxima with their indices, and their mean and sum
    forward = 2 + 2 + 2 * (1 + 3 * groups) + 2 * groups
    # of each maximum zeros and the scattered gradient, one of them divided by P; of M·F, of the softmax, and their sum
    backward = 2 * (1 + 3 * groups) + groups + 2 + 3 + 3
    # The gradients of the mean and of the sum are expanded, one is divided while it is: written once, and read once.
    backward += groups
    for launches, expected in ((step.forward, forward), (step.backward, backward)):
        assert sum(launch.nbytes for launch in launches) / case.nbytes == pytest.approx(expected, rel=0.02)
    assert CountedLaunch("_softmax", 2 * case.nbytes) in step.forward
