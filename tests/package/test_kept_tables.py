"""The tables that are kept per device are ordinary tensors, also where the first call runs inside a transform."""

import itertools

import pytest
import torch
from checks import make_features, make_mask
from torch._subclasses.fake_tensor import FakeTensorMode
from torch._subclasses.functional_tensor import FunctionalTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from mcl_triton import ChannelGroups, mc_loss, sample_channel_mask
from reference.formulas import paper as oracle

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # where the kernels are interpreted


def in_fake_mode(call, *tensors):
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        call(*map(mode.from_tensor, tensors))


def within(context):
    def run(call, *tensors):
        with context():
            call(*tensors)

    return run


def with_default_dtype(call, *tensors):
    torch.set_default_dtype(torch.float64)
    try:
        call(*tensors)
    finally:
        torch.set_default_dtype(torch.float32)


def exported(call, *tensors):
    class Module(torch.nn.Module):
        def forward(self, *tensors):
            return call(*tensors)

    torch.export.export(Module(), tensors, strict=False)


def differentiated(call, *tensors):
    torch.func.grad(lambda factor: factor * call(*tensors))(torch.ones((), device=DEVICE))


def differentiated_forward(call, *tensors):
    one = torch.ones((), device=DEVICE)
    torch.func.jvp(lambda factor: factor * call(*tensors), (one,), (one,))


TRANSFORMS = {
    "functionalize": lambda call, *tensors: torch.func.functionalize(call)(*tensors),
    "vmap": lambda call, *tensors: torch.func.vmap(call, randomness="same")(*(tensor[None] for tensor in tensors)),
    "grad": differentiated,
    "jvp": differentiated_forward,
    "functional mode": within(FunctionalTensorMode),
    "fake mode": in_fake_mode,
    "inference mode": within(torch.inference_mode),
    "no gradients": within(torch.no_grad),
    "default device": within(lambda: torch.device("meta")),
    "default dtype": with_default_dtype,
    "make_fx": lambda call, *tensors: make_fx(call, tracing_mode="symbolic")(*tensors),
    "export": exported,
    "compile": lambda call, *tensors: torch.compile(call, fullgraph=True, backend="aot_eager")(*tensors),
}
new_size = itertools.count(20)  # of the first class, so that no other call has made the tables of these groups


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore:There is a performance drop", "ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("backend", ["eager", "triton"])
@pytest.mark.parametrize("first_call", TRANSFORMS.values(), ids=TRANSFORMS)
class TestAfterAFirstCallInATransform:
    def test_the_loss_is_that_of_the_formula(self, first_call, backend):
        """Ragged groups and a given mask: the sizes' inverses are a table."""
        sizes = [next(new_size), 7]
        groups = ChannelGroups(sizes)

        def loss(features, targets, mask):
            return mc_loss(features, targets, groups, mask=mask, backend=backend).loss

        features = make_features("signed", (2, sum(sizes), 3, 3), torch.float32)
        targets, mask = torch.tensor([0, 1]), make_mask("shared", 2, sum(sizes))
        first_call(loss, *(tensor.to(DEVICE) for tensor in (features, targets, mask)))
        ours, theirs = (features.to(device, copy=True).requires_grad_() for device in (DEVICE, "cpu"))
        found = loss(ours, targets.to(DEVICE), mask.to(DEVICE))
        expected = oracle.official_loss(theirs, targets, sizes, mask, 1.5, 20)
        found.backward()
        expected.backward()
        torch.testing.assert_close((found.detach().cpu(), ours.grad.cpu()), (expected.detach(), theirs.grad))

    def test_masks_drop_what_they_should(self, first_call, backend):
        sizes = [next(new_size), 7]
        groups = ChannelGroups(sizes)

        def draw(factor):
            return (factor * sample_channel_mask(groups, device=DEVICE, backend=backend)).sum()

        first_call(draw, torch.ones(1, device=DEVICE))
        mask = sample_channel_mask(groups, device=DEVICE, backend=backend)
        assert type(mask) is torch.Tensor
        assert [int((part == 0).sum()) for part in mask.cpu().split(sizes)] == [size // 2 for size in sizes]
