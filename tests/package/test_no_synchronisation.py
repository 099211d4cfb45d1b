"""A whole step as on a GPU, without one: nothing looks at a value, and nothing is copied between host and device.

Tensors on the device "meta" have no values to look at either, and autograd knows them in every build of PyTorch. Here
they pass for those of a GPU.
"""

from contextlib import ExitStack

import pytest
import torch
from checks import INTERLEAVED
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mcl_triton import ChannelGroups, MCLoss, attention, loss, pooling, tracing

BATCH = 4
RAGGED = ChannelGroups(INTERLEAVED)
UNIFORM = ChannelGroups.uniform(7, 4)


class FromNumbers(TorchFunctionMode):
    """Raises where a tensor on the device is made of Python's numbers: not every release makes an operation of that."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        makes_one = function in (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor)
        if makes_one and result.device.type != "cpu":
            raise AssertionError("a tensor was made of numbers, which a step has to copy to the device")
        return result


class Watch(TorchDispatchMode):
    """Notes the operations and their arguments by name, and raises where host and device meet."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.stack = ExitStack()

    def __enter__(self):
        self.stack.enter_context(FromNumbers())
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.stack.close()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        name = operation.name()
        # A scalar of the host goes along with a kernel's launch; a copy, even of a scalar, is a launch of its own.
        on_host = [tensor for tensor in tensors if tensor.device.type == "cpu" and (tensor.dim() or "copy" in name)]
        if on_host and len({tensor.device for tensor in tensors}) > 1:
            raise AssertionError(f"{name} copies between host and device")
        names = [argument.name for argument in operation._schema.arguments]
        self.calls.append((name, dict(zip(names, args, strict=False))))
        return result

    def of_ours(self):
        return [(name.removeprefix("mcl_triton::"), args) for name, args in self.calls if name.startswith("mcl_triton")]


@pytest.fixture
def gpu(monkeypatch):
    """The device, which the code takes for a GPU."""

    def as_on_cuda(backend, device):
        return uses_kernels(backend, torch.device("cuda") if device.type == "meta" else device)

    uses_kernels = pooling.uses_kernels
    for module in (attention, loss, pooling):
        monkeypatch.setattr(module, "uses_kernels", as_on_cuda)
    # `Watch` must not be seen: among fake tensors no value is looked at, and no table kept.
    monkeypatch.setattr(tracing, "_get_current_dispatch_mode", lambda: None)
    return torch.device("meta")


def watched_step(module, *arguments):
    """Forward and backward, after a first step that makes the tables."""
    features = arguments[0]
    module(*arguments).loss.backward()
    features.grad = None
    with Watch() as watch:
        output = module(*arguments)
        output.loss.backward()
    assert {result.device for result in (*output, features.grad)} == {features.device}
    assert features.grad.stride() == features.stride()
    return watch


LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("targets", ["indices", "probabilities"])
@pytest.mark.parametrize("convention", ["official", "paper"])
@pytest.mark.parametrize("groups", [RAGGED, UNIFORM], ids=["ragged", "uniform"])
def test_step_of_the_whole_loss(groups, convention, targets, dtype, layout, gpu):
    module = MCLoss(groups, convention=convention, class_weights=torch.rand(7), label_smoothing=0.1).to(gpu)
    shape = (BATCH, groups.num_channels, 5, 4)
    features = torch.empty(shape, dtype=dtype, device=gpu).contiguous(memory_format=layout).requires_grad_()
    targets = torch.zeros(BATCH, dtype=torch.long) if targets == "indices" else torch.rand(BATCH, 7)
    calls = watched_step(module, features, targets.to(gpu)).of_ours()
    forward_name = "mc_loss" if targets.dtype == torch.long else "channel_pool"
    assert [name for name, _ in calls] == ["channel_mask", forward_name, "channel_pool_backward"]
    (_, mask), (_, forward), (_, backward) = calls
    assert mask["keys"].shape == (groups.num_channels,)
    assert forward["saves_gradient" if forward_name == "mc_loss" else "saves"] is True
    assert backward["by_kernels"] is True
    assert backward["statistics"].shape == (2, BATCH, groups.num_channels)
    assert backward["winners"].shape == (BATCH, groups.num_classes * 20)


MODULES = {
    "evaluation": lambda: MCLoss(RAGGED).eval(),
    "nothing dropped": lambda: MCLoss(RAGGED, drop=0),
    "a number for each class": lambda: MCLoss(RAGGED, drop=[2, 0, 1, 3, 0, 1, 1]),
    "a fraction": lambda: MCLoss(RAGGED, drop=0.3),
    "samples left out": lambda: MCLoss(RAGGED, ignore_index=6),
    "discriminality alone": lambda: MCLoss(RAGGED, weights=(1.0, 0.0)),
    "diversity alone": lambda: MCLoss(RAGGED, weights=(0.0, 1.0)),
    "another criterion": lambda: MCLoss(RAGGED, criterion=lambda g, t: -g.gather(1, t.long()[:, None]).mean()),
    "plain PyTorch": lambda: MCLoss(RAGGED, backend="eager"),
}


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
@pytest.mark.parametrize("mask", [None, (20,), (BATCH, 20)], ids=str)
def test_step_of_other_settings(mask, make, gpu):
    module = make()
    features = torch.empty(BATCH, 20, 5, 4, device=gpu, requires_grad=True)
    targets = torch.zeros(BATCH, dtype=torch.int32, device=gpu)  # as data loaders may give them
    mask = None if mask is None else torch.empty(mask, dtype=torch.bool, device=gpu)
    calls = watched_step(module, features, targets, mask).of_ours()
    assert ("channel_mask" in dict(calls)) == (
        mask is None and module.training and module.drop != 0 and module.backend != "eager"
    )
    for name, args in calls:
        assert name in ("channel_mask", "mc_loss") or args["by_kernels"] == (module.backend != "eager")


def test_evaluation_holds_nothing_for_backward(gpu):
    module = MCLoss(RAGGED).eval()
    features = torch.empty(BATCH, 20, 5, 4, device=gpu)
    targets = torch.zeros(BATCH, dtype=torch.long, device=gpu)
    with torch.no_grad():
        module(features.requires_grad_(), targets)  # makes the tables
        with Watch() as watch:
            module(features, targets)
    ((name, forward),) = watch.of_ours()
    assert name == "mc_loss"
    assert forward["saves_gradient"] is False


SYNCHRONISING = {
    "item": lambda x: x.sum().item(),
    "truth value": lambda x: bool((x > 0).any()),
    "int": lambda x: int(x[0, 0]),
    "nonzero": lambda x: x.nonzero(),
    "indexing by truth values": lambda x: x[x > 0],
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x),
    "tolist": lambda x: x.tolist(),
    "repeat_interleave": lambda x: x.repeat_interleave(x[0].long(), dim=0),
    "copy to the host": lambda x: x.cpu(),
    "copy to the device": lambda x: x + torch.ones(2, 3).to(x.device),
    "copy of a scalar": lambda x: x + torch.tensor(1.0).to(x.device),
    "numbers": lambda x: x + torch.tensor([1.0, 2.0, 3.0], device=x.device),
    "numbers for a tensor": lambda x: x + x.new_tensor([1.0, 2.0, 3.0]),
    "filled from the host": lambda x: torch.empty_like(x).copy_(torch.ones(2, 3)),
}


@pytest.mark.parametrize("function", SYNCHRONISING.values(), ids=SYNCHRONISING)
def test_what_synchronises_is_caught(function, gpu):
    with pytest.raises((AssertionError, NotImplementedError, RuntimeError)), Watch():
        function(torch.empty(2, 3, device=gpu))


@pytest.mark.parametrize(
    "function", [lambda x: x * torch.tensor(2.0), lambda x: x.sort(dim=1).values], ids=["scalar", "sort"]
)
def test_what_does_not_synchronise_is_let_through(function, gpu):
    with Watch():
        function(torch.empty(2, 3, device=gpu))
