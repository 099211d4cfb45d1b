"""The way past PyTorch's dispatcher gives what the operator gives, and is left where something else looks on."""

import pytest
import torch
from checks import make_features, make_mask
from torch._subclasses.fake_tensor import FakeTensorMode

from mcl_triton import ChannelGroups, channel_pool, mc_loss, operators

GROUPS = ChannelGroups([2, 1, 3])
KERNEL_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Unreachable(Exception):
    pass


def unreachable(*_):
    raise Unreachable


@pytest.mark.parametrize(("backend", "device"), [("eager", "cpu"), ("triton", KERNEL_DEVICE)], ids=["eager", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("wanted", ["both", "scores", "diversity"])
def test_same_results(wanted, dtype, backend, device, monkeypatch):
    features = make_features("relu", (3, 6, 4, 3), dtype).to(device).requires_grad_()
    mask = make_mask("per sample", 3, 6).to(device)
    found = []
    for are_plain in (operators.are_plain, lambda *tensors: False):
        monkeypatch.setattr(operators, "are_plain", are_plain)
        scores, diversity = channel_pool(features, GROUPS, mask, backend=backend)
        result = {"both": scores.exp() * diversity, "scores": scores, "diversity": diversity}[wanted]
        found.append((scores, diversity, torch.autograd.grad(result.sum(), features)[0]))
        assert not torch.equal(found[-1][2], torch.zeros_like(features))
    assert all(map(torch.equal, *found))


def test_it_is_taken(monkeypatch):
    monkeypatch.setattr(operators, "_channel_pool", unreachable)
    monkeypatch.setattr(operators, "_channel_pool_backward", unreachable)
    for tensor in (make_features("signed", (3, 6, 4, 3), torch.float32), torch.nn.Parameter(torch.rand(3, 6, 4, 3))):
        features = tensor.requires_grad_()
        mc_loss(features, torch.tensor([0, 2, 1]), GROUPS).loss.backward()
        assert features.grad.any()


class Subclass(torch.Tensor):
    pass


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_it_is_left(monkeypatch):
    features = make_features("signed", (3, 6, 4, 3), torch.float32)
    monkeypatch.setattr(operators._ChannelPool, "apply", unreachable)
    with pytest.raises(Unreachable):
        channel_pool(features, GROUPS)
    channel_pool(features.to("meta"), GROUPS)
    channel_pool(features.as_subclass(Subclass), GROUPS)
    torch.func.vmap(lambda each: channel_pool(each, GROUPS).scores)(features[None])
    torch.compile(lambda each: channel_pool(each, GROUPS).scores, backend="eager", fullgraph=True)(features)
    with FakeTensorMode():
        channel_pool(torch.empty(3, 6, 4, 3), GROUPS)


@pytest.mark.parametrize("backend", ["eager", "triton"])
def test_gradients_of_several_losses_at_once(backend):
    """PyTorch runs backward under vmap for ``is_grads_batched``, after a forward that it did not see."""
    features = make_features("signed", (3, 6, 4, 3), torch.float32).to(KERNEL_DEVICE).requires_grad_()
    scores = channel_pool(features, GROUPS, backend=backend).scores.sum(dim=0)
    each = torch.eye(3, device=KERNEL_DEVICE)
    found = torch.autograd.grad(scores, features, each, is_grads_batched=True, retain_graph=True)[0]
    for index in range(3):
        assert torch.equal(found[index], torch.autograd.grad(scores[index], features, retain_graph=True)[0])


@pytest.mark.parametrize("backend", ["eager", "triton"])
def test_numbers_whose_sign_is_not_in_memory(backend):
    """A conjugate's imaginary part is the same memory, with a bit that says minus."""
    features = torch.randn(3, 6, 4, 3, dtype=torch.complex64).to(KERNEL_DEVICE).conj().imag
    assert features.is_neg()
    found = channel_pool(features, GROUPS, backend=backend)
    expected = channel_pool(features.resolve_neg(), GROUPS, backend=backend)
    assert all(map(torch.equal, found, expected))
