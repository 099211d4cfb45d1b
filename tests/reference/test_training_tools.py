"""The loss among the tools that training is done with: mixed precision, loss scaling, checkpointing, CUDA graphs."""

from unittest.mock import patch

import pytest
import recorded_graphs
import torch
from checks import make_features, make_mask
from torch import nn
from torch.utils.checkpoint import checkpoint

from mcl_triton import ChannelGroups, MCLoss, channel_pool, mc_loss
from reference.formulas import paper as oracle

GROUPS = ChannelGroups([2, 1, 3])
TARGETS = torch.tensor([0, 2, 1])
KERNEL_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # where they are interpreted

with_either = pytest.mark.parametrize(
    ("backend", "device"), [("eager", "cpu"), ("triton", KERNEL_DEVICE)], ids=["eager", "triton"]
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="of what stands in for a GPU")


def make_layer(device):
    torch.manual_seed(0)
    return nn.Conv2d(3, 6, 3).to(device), torch.randn(3, 3, 5, 4).to(device), TARGETS.to(device)


# Mixed precision


@with_either
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_leaves_the_features_as_they_come(dtype, backend, device):
    """They are neither rounded nor widened, and the loss computes in float32 inside of autocast as outside."""
    targets, mask = TARGETS.to(device), make_mask("per sample", 3, 6).to(device)
    for of_features in (dtype, torch.float32):
        features = make_features("signed", (3, 6, 4, 3), of_features).to(device).requires_grad_()
        with torch.autocast(device, dtype=dtype):
            output = mc_loss(features, targets, GROUPS, mask=mask, backend=backend)
        assert {result.dtype for result in output} == {torch.float32}
        (gradient,) = torch.autograd.grad(output.loss, features)
        assert gradient.dtype == of_features
        expected = mc_loss(features, targets, GROUPS, mask=mask, backend=backend)
        assert torch.equal(output.loss, expected.loss)
        assert torch.equal(gradient, torch.autograd.grad(expected.loss, features)[0])


@with_either
def test_autocast_around_a_layer(backend, device):
    layer, images, targets = make_layer(device)
    seen = []
    with torch.autocast(device, dtype=torch.bfloat16):
        features = layer(images)
        features.register_hook(seen.append)
        loss = MCLoss(GROUPS, drop=0, backend=backend)(features, targets).loss
    loss.backward()
    assert features.dtype == seen[0].dtype == torch.bfloat16
    expected = oracle.official_loss(layer(images).float(), targets, GROUPS.sizes, None, 1.5, 20)
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0)  # bfloat16 keeps 8 bits
    (gradient,) = torch.autograd.grad(expected, layer.bias)
    assert torch.nn.functional.cosine_similarity(layer.bias.grad, gradient, dim=0) > 0.98


@with_either
def test_scaled_gradients_that_overflow(backend, device):
    """The scaler skips steps that overflow and lowers the scale, until float16 has the range of the gradient."""
    layer, images, targets = make_layer(device)
    module = MCLoss(GROUPS, drop=0, backend=backend)
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    (expected,) = torch.autograd.grad(module(layer(images).half(), targets).loss, layer.weight)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**20, growth_interval=2)
    scales = []
    for _ in range(20):
        optimizer.zero_grad()
        scaler.scale(module(layer(images).half(), targets).loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
        if not torch.equal(layer.weight, before[0]):
            break
        assert not layer.weight.grad.isfinite().all()
        assert all(map(torch.equal, layer.parameters(), before))
    skipped = len(scales) - 1
    assert skipped > 0
    assert scales == [2.0 ** (19 - step) for step in range(skipped)] + scales[skipped - 1 : skipped]
    # Scaling by powers of two changes no digit of what neither overflows nor underflows.
    torch.testing.assert_close(before[0] - layer.weight, expected, rtol=2e-3, atol=1e-5)


@with_either
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_images_that_are_not_finite(value, backend, device):
    layer, images, targets = make_layer(device)
    module = MCLoss(GROUPS, drop=0, backend=backend)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler(device, init_scale=8.0, growth_interval=2)
    bad_images = images.clone()
    bad_images[1, 2, 3, 1] = value
    changes, scales = [], []
    for batch in (images, bad_images, images, images):
        before = layer.weight.detach().clone()
        optimizer.zero_grad()
        scaler.scale(module(layer(batch), targets).loss).backward()
        scaler.step(optimizer)
        scaler.update()
        changes.append(not torch.equal(layer.weight, before))
        scales.append(scaler.get_scale())
    assert changes == [True, False, True, True]
    assert scales == [8, 4, 4, 8]


# Activation checkpointing


@with_either
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed_activations(use_reentrant, backend, device):
    """The second forward draws the mask of the first."""
    layer, images, targets = make_layer(device)
    module = MCLoss(GROUPS, backend=backend)
    images.requires_grad_()  # or the reentrant kind sees nothing to differentiate

    def step(images):
        return module(layer(images), targets).loss

    gradients = []
    torch.use_deterministic_algorithms(True, warn_only=True)  # of the convolution
    for seed in range(4):
        torch.manual_seed(seed)
        expected = torch.autograd.grad(step(images), images)[0]
        torch.manual_seed(seed)
        images.grad = None
        checkpoint(step, images, use_reentrant=use_reentrant).backward()
        assert torch.equal(images.grad, expected)
        gradients.append(tuple(expected.flatten().tolist()))
    torch.use_deterministic_algorithms(False)
    assert len(set(gradients)) > 1


# Gradients accumulated, taken twice, taken of a part


@with_either
def test_two_backwards_through_one_graph(backend, device):
    features = make_features("signed", (3, 6, 4, 3), torch.float32).to(device).requires_grad_()
    scores, diversity = channel_pool(features, GROUPS, backend=backend)
    (both,) = torch.autograd.grad(scores.sum() + diversity.sum(), features, retain_graph=True)
    (of_scores,) = torch.autograd.grad(scores.sum(), features, retain_graph=True)
    (of_diversity,) = torch.autograd.grad(diversity.sum(), features)
    torch.testing.assert_close(both, of_scores + of_diversity)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(scores.sum(), features)


# CUDA graphs, and waiting for the GPU


@needs_gpu
def test_nothing_waits_for_the_gpu():
    module = MCLoss(GROUPS, class_weights=torch.ones(3)).cuda()
    features = make_features("signed", (3, 6, 4, 3), torch.float32).cuda().requires_grad_()
    targets = TARGETS.cuda()
    module(features, targets).loss.backward()  # compiles the kernels and makes the tables
    torch.cuda.set_sync_debug_mode("error")
    try:
        module(features, targets).loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def graphs():
    """CUDA graphs, or what stands in for them."""
    recorded_graphs.stand_in_without_a_gpu()
    yield
    patch.stopall()


def captured(step):
    """The graph of a step, and what the step returns, captured as in PyTorch's notes."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()
    return graph, result


@pytest.mark.parametrize("backend", ["eager", "triton"])
def test_cuda_graph(backend, graphs):
    """A captured step reads what its tensors hold at each replay, and draws a new mask each time."""
    module = MCLoss(GROUPS, backend=backend)
    features = make_features("signed", (3, 6, 4, 3), torch.float32).to(KERNEL_DEVICE).requires_grad_()
    targets, mask = TARGETS.to(KERNEL_DEVICE), torch.ones(6, device=KERNEL_DEVICE)

    def step():
        losses = module(features, targets, mask).loss, module(features, targets).loss
        return losses, torch.autograd.grad(sum(losses), features)[0]

    graph, (losses, gradient) = captured(step)
    for seed in range(6):
        new = make_features("signed", (3, 6, 4, 3), torch.float32, seed=seed)
        features.detach().copy_(new)
        graph.replay()
        torch.testing.assert_close(losses[0].cpu(), oracle.official_loss(new, TARGETS, GROUPS.sizes, None, 1.5, 20))
        assert gradient.isfinite().all()
    random = set()
    for _ in range(12):
        graph.replay()
        random.add(losses[1].item())
    assert len(random) > 1


@without_gpu
@pytest.mark.parametrize("backend", ["eager", "triton"])
def test_replays_of_a_captured_step_train_as_steps_do(backend, graphs):
    batches = torch.randn(4, 3, 2, 8, 8)

    def trained(captures):
        torch.manual_seed(0)
        images = torch.zeros_like(batches[0])
        convolution = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        loss = MCLoss(GROUPS, backend=backend)
        optimizer = torch.optim.SGD(convolution.parameters(), lr=0.1, momentum=0.9)

        def step():
            optimizer.zero_grad(set_to_none=True)
            loss(convolution(images), TARGETS).loss.backward()
            optimizer.step()

        if captures:
            graph, _ = captured(step)
            step = graph.replay
        else:
            for _ in range(3):
                step()
        for batch in batches:
            images.copy_(batch)
            step()
        return convolution.state_dict()

    torch.testing.assert_close(trained(captures=True), trained(captures=False), rtol=0, atol=0)


@without_gpu
@pytest.mark.parametrize("baked_in", [lambda x: x * x.max().item(), lambda x: x if x.sum() > 0 else -x])
def test_a_number_read_in_python_stays_what_it_was(baked_in, graphs):
    """Otherwise the tests above would prove nothing."""
    features = torch.ones(3)
    graph, result = captured(lambda: baked_in(features))
    features.fill_(-2)
    graph.replay()
    assert not torch.equal(result, baked_in(features))
