"""The launches of one step of the loss on a GPU, counted without one: `python -m bench static --launches`.

A step draws a mask or takes a given one, and computes the loss and the gradient of the features. Every operator of
PyTorch that computes something counts as one launch, though sorting and a few others take several. Our own operators
count by their kernels and other operators. Tables made once and kept do not count, nor does the 1 that backward begins
with, which belongs to the sum of all losses.

An operator moves its arguments and its result, each element once: the least possible.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from math import prod
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from mcl_triton import ChannelGroups, mc_loss

from ..cases import Case
from ..providers import Loss, official, plain

CASES = {"uniform": Case(2, ChannelGroups.uniform(4, 3), 3), "ragged": Case(2, ChannelGroups.split(14, 4), 3)}
CONVENTIONS = ("official", "paper")
MASKS = ("drawn", "given")

_ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
_NOT_READ = {  # arguments of which only the shape matters, or that are overwritten
    "max_pool2d_with_indices_backward": {"self"},
    "avg_pool2d_backward": {"self"},
    "nll_loss_backward": {"self"},
    "new_zeros": {"self"},
    "zero_": {"self"},
    "fill_": {"self"},
    "copy_": {"self"},
    "scatter_": {"self"},
    "scatter": {"self"},
}
# Autograd scatters in place into zeros, and into a copy only while a dispatch mode looks on: counted as in place.
_SCATTERS = {torch.ops.aten.scatter.src, torch.ops.aten.scatter_.src}


class CountedLaunch(NamedTuple):
    """One launch, the bytes that it reads and writes, and the instructions that its warps issue.

    Bytes of our own kernels are those of their tensors, once each: see `traffic` for what pooling really moves.
    Instructions of theirs are 0 here: see `instructions`.
    """

    name: str
    nbytes: int = 0
    slots: int = 0


class Step(NamedTuple):
    """The launches of one step, in order."""

    forward: list[CountedLaunch]
    backward: list[CountedLaunch]

    @property
    def total(self) -> int:
        """Number of launches."""
        return len(self.forward) + len(self.backward)

    def text(self) -> str:
        """The names, as text."""
        names = [" ".join(launch.name for launch in of) for of in self]
        return f"  forward   {names[0]}\n  backward  {names[1]}"


def step_of(loss: Loss, case: Case, device: torch.device | str = "meta") -> Step:
    """The launches of one step of a loss.

    On the device "meta" nothing is computed, and the case may be of any size; our own kernels are not run there, but
    need TRITON_INTERPRET=1 in the environment.
    """
    features = case.empty(device).requires_grad_()
    targets = torch.zeros(case.batch, dtype=torch.long, device=device)
    mask, one = torch.ones(case.groups.num_channels, device=device), torch.ones((), device=device)
    with count_launches() as forward:
        value = loss(features, targets, mask, case.groups)
    with count_launches() as backward:
        torch.autograd.grad(value, features, one.to(value.dtype))
    return Step(forward, backward)


def ours(convention: str, mask_is: str) -> Loss:
    """`mc_loss` with the kernels; the mask is "given", or "drawn", half of each class's channels."""

    def loss(features: Tensor, targets: Tensor, mask: Tensor, groups: ChannelGroups) -> Tensor:
        given = mask if mask_is == "given" else None
        return mc_loss(features, targets, groups, mask=given, convention=convention, backend="triton").loss

    return loss


@contextmanager
def count_launches() -> Iterator[list[CountedLaunch]]:
    """The launches while the block runs, in a list that grows."""
    from mcl_triton.kernels import whole_maps

    mode = _Launches()
    kernel_type = type(whole_maps.forward_kernel)  # Triton's, or its interpreter's
    grid_of = kernel_type.__getitem__

    def recorded(kernel: Any, grid: tuple[int, ...]) -> Callable[..., object]:
        run = unseen(grid_of(kernel, grid))  # the interpreter computes with tensors

        def call(**arguments: object) -> None:
            tensors = {id(of): of for of in arguments.values() if isinstance(of, Tensor)}
            mode.launches.append(CountedLaunch(kernel.fn.__name__, sum(map(_nbytes, tensors.values()))))
            if not any(isinstance(argument, Tensor) and argument.is_meta for argument in arguments.values()):
                run(**arguments)

        return call

    with patch.object(kernel_type, "__getitem__", recorded), tables_kept(), mode:
        yield mode.launches


@contextmanager
def tables_kept() -> Iterator[None]:
    """Make the package's tables once, as in training, and not once per mode."""
    with ExitStack() as stack:
        for module in [module for name, module in sys.modules.items() if name.startswith("mcl_triton.")]:
            for name, table in list(vars(module).items()):
                if hasattr(table, "_dynamo_marked_constant"):
                    stack.enter_context(patch.object(module, name, unseen(table)))
        yield


class _Launches(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.launches: list[CountedLaunch] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:  # what is launched inside
            if operator.namespace == "mcl_triton":
                return OPDEFS[operator._schema.name]._init_fn(*args, **kwargs)
            parts = operator.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        result = operator(*args, **kwargs)
        if _computes(operator, (args, kwargs), result):
            self.launches.append(
                CountedLaunch(operator.overloadpacket.__name__, _bytes_moved(operator, args, kwargs, result))
            )
        return result


def _computes(operator: Any, arguments: object, result: object) -> bool:
    """True for an operator of PyTorch that launches a kernel, and not for views, allocations and queries."""
    name = operator.overloadpacket.__name__
    if name == "_local_scalar_dense":  # .item(), which copies, and waits for the device
        return True
    memory = {leaf.untyped_storage()._cdata for leaf in _tensors(arguments)}
    results = [leaf for leaf in _tensors(result) if leaf.numel() > 0]
    is_view = not operator._schema.is_mutable and all(leaf.untyped_storage()._cdata in memory for leaf in results)
    return name not in _ALLOCATIONS and not is_view


def _bytes_moved(operator: Any, args: tuple[object, ...], kwargs: dict[str, object], result: object) -> int:
    """Bytes that an operator reads and writes; expanded tensors count once."""
    name = operator.overloadpacket.__name__
    by_name = dict(zip((argument.name for argument in operator._schema.arguments), args, strict=False)) | kwargs
    read = [value for key, value in by_name.items() if key not in _NOT_READ.get(name, ())]
    nbytes = sum(map(_nbytes, _tensors(read)))
    if operator in _SCATTERS:
        source: Any = by_name["src"]
        return nbytes + source.nbytes
    return nbytes + sum(map(_nbytes, _tensors(result)))


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _nbytes(tensor: Tensor) -> int:
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.itemsize * prod(size for size, stride in sizes if stride or not size)


def unseen(function: Callable[..., object]) -> Callable[..., object]:
    """The same function or method, hidden from any mode."""

    def call(*args: object, **kwargs: object) -> object:
        with _disable_current_modes():
            return function(*args, **kwargs)

    return call


def main() -> None:
    """Print the launches of our loss and of the formulas."""
    losses: dict[str, Loss] = {
        f"mc_loss, {convention}, mask {mask_is}": ours(convention, mask_is)
        for convention in CONVENTIONS
        for mask_is in MASKS
    }
    losses |= {"plain formula, mask given": plain, "official formula, mask given": official}
    for name, loss in losses.items():
        for kind, case in CASES.items():
            step = step_of(loss, case)
            print(f"{name}, {kind} groups: {len(step.forward)} + {len(step.backward)} = {step.total} launches")
            print(step.text())
