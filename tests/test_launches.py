"""How many kernels a step launches, counted without a GPU."""

import pytest
import torch
from checks import lay_out, make_features, make_mask

from bench.cpu import plain
from bench.launches import CONVENTIONS, GROUPS, MASKS, count_launches, official, ours, step_of
from mcl_triton import ChannelGroups, channel_pool, class_scores, diversity_scores

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RAGGED = ChannelGroups([3, 1, 3, 7, 1, 2, 3])


@pytest.mark.parametrize("kind", GROUPS)
@pytest.mark.parametrize("mask_is", MASKS)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_step(convention, mask_is, kind):
    """Pooling 1 + 1, cross-entropy 2 + 2, the mean of h 1 + 1, a sum for each component 2 + 2, a drawn mask 2."""
    step = step_of(ours(convention, mask_is), GROUPS[kind], DEVICE)
    expected = 12 + 2 * (mask_is == "drawn")
    if convention == "official" and kind == "ragged":  # h / ξ, another mean, and the gradient of the division
        expected += 3
    assert step.total == expected, step
    assert step.forward.count("forward_kernel") == step.backward.count("backward_kernel") == 1
    assert "_local_scalar_dense" not in step.forward + step.backward  # which would wait for the GPU


@pytest.mark.parametrize("kind", GROUPS)
def test_step_of_more_classes_with_more_channels(kind):
    larger = {"uniform": ChannelGroups.uniform(64, 12), "ragged": ChannelGroups.split(790, 64)}
    loss = ours("official", "drawn")
    assert step_of(loss, larger[kind], DEVICE) == step_of(loss, GROUPS[kind], DEVICE)


@pytest.mark.parametrize("formula", [plain, official])
@pytest.mark.parametrize("kind", GROUPS)
def test_less_than_half_of_the_formulas(kind, formula):
    theirs, step = (step_of(loss, GROUPS[kind], DEVICE) for loss in (formula, ours("official", "given")))
    assert 2 * step.total < theirs.total


def gradient(results, features):
    """Gradients that are expanded, as a sum makes them, and those that are transposed."""
    grads = [result.new_ones(()).expand_as(result) for result in results[:1]]
    grads += [torch.ones_like(result.t()).t() for result in results[1:]]
    with count_launches() as launches:
        torch.autograd.grad(results, features, grads)
    return launches


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "rows", "sliced channels", "every second channel"])
@pytest.mark.parametrize("mask_kind", ["none", "shared", "per sample"])
def test_pooling_is_one_launch(mask_kind, layout):
    features = lay_out(make_features("signed", (2, 20, 5, 4), torch.bfloat16).to(DEVICE), layout).requires_grad_()
    mask = make_mask(mask_kind, 2, 20)
    with count_launches() as forward:
        results = channel_pool(features, RAGGED, None if mask is None else mask.to(DEVICE), backend="triton")
    assert forward == ["forward_kernel"]
    assert gradient([*results], features) == ["backward_kernel"]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_pooling_of_large_maps_is_one_launch(layout):
    """A map of 66×66 is too large for a program."""
    features = lay_out(make_features("signed", (1, 3, 66, 66), torch.float32).to(DEVICE), layout).requires_grad_()
    with count_launches() as forward:
        results = channel_pool(features, ChannelGroups([1, 2]), backend="triton")
    assert forward == ["forward_kernel"]
    assert gradient([*results], features) == ["backward_kernel"]


@pytest.mark.parametrize("pool", [class_scores, diversity_scores])
def test_one_result_is_one_launch(pool):
    features = make_features("signed", (2, 20, 5, 4), torch.float32).to(DEVICE).requires_grad_()
    with count_launches() as forward:
        result = pool(features, RAGGED, backend="triton")
    assert forward == ["forward_kernel"]
    assert gradient([result], features) == ["backward_kernel"]


def test_copies_around_a_kernel_count():
    """H and W of these features cannot be joined: they are copied, and so is their gradient."""
    features = lay_out(make_features("signed", (2, 20, 5, 4), torch.float32), "transposed map").to(DEVICE)
    features.requires_grad_()
    with count_launches() as forward:
        results = channel_pool(features, RAGGED, backend="triton")
    assert forward == ["clone", "forward_kernel"]
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
    assert launches == ["add_", "relu", "zeros", "clone", "_to_copy", "sum", "_local_scalar_dense", "copy_"]
