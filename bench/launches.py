"""How many kernels one step of the loss launches on a GPU, counted without one: `python -m bench.launches`.

A step draws a mask or is given one, and computes the loss and the gradient of the features. Every operator of PyTorch
that computes something counts as one launch, though sorting and a few others take several; of our own operators the
kernels count that they launch, and what else they do. Where there is no GPU, Triton interprets the kernels. Not counted
are the tables that are made once and kept, and the 1 that backward begins with: it belongs to the sum of all losses.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

import reference.official
from mcl_triton import ChannelGroups, mc_loss, sample_channel_mask

from .cpu import Loss, plain

GROUPS = {"uniform": ChannelGroups.uniform(4, 3), "ragged": ChannelGroups.split(14, 4)}
CONVENTIONS = ("official", "paper")
MASKS = ("drawn", "given")

_ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}


class Step(NamedTuple):
    """The names of what one step launches, in order."""

    forward: list[str]
    backward: list[str]

    @property
    def total(self) -> int:
        """How many launches."""
        return len(self.forward) + len(self.backward)


def step_of(loss: Loss, groups: ChannelGroups, device: torch.device | str = "cpu") -> Step:
    """What one step launches of a loss that is given features, targets, mask and groups."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, groups.num_channels, 3, 3, generator=generator).to(device).requires_grad_()
    targets = torch.tensor([0, groups.num_classes - 1], device=device)
    mask = sample_channel_mask(groups, device=device)
    one = torch.ones((), device=device)
    with count_launches() as forward:
        value = loss(features, targets, mask, groups)
    with count_launches() as backward:
        torch.autograd.grad(value, features, one)
    return Step(forward, backward)


def ours(convention: str, mask_is: str) -> Loss:
    """`mc_loss` with the kernels; the mask is "given", or "drawn", half of each class's channels."""

    def loss(features: Tensor, targets: Tensor, mask: Tensor, groups: ChannelGroups) -> Tensor:
        given = mask if mask_is == "given" else None
        return mc_loss(features, targets, groups, mask=given, convention=convention, backend="triton").loss

    return loss


def official(features: Tensor, targets: Tensor, mask: Tensor, groups: ChannelGroups) -> Tensor:
    """The published formula."""
    if groups.is_uniform:
        return reference.official.loss(features, targets, groups.sizes[0], mask)
    return reference.official.ragged_loss(features, targets, groups.runs, mask)


@contextmanager
def count_launches() -> Iterator[list[str]]:
    """The names of what is launched while the block runs, in a list that grows."""
    from mcl_triton.kernels import whole_maps

    mode = _Launches()
    kernel_type = type(whole_maps.forward_kernel)  # Triton's, or its interpreter's
    grid_of = kernel_type.__getitem__

    def recorded(kernel: Any, grid: tuple[int, ...]) -> Callable[..., object]:
        mode.names.append(kernel.fn.__name__)
        return unseen(grid_of(kernel, grid))  # the interpreter computes with tensors

    with patch.object(kernel_type, "__getitem__", recorded), tables_kept(), mode:
        yield mode.names


@contextmanager
def tables_kept() -> Iterator[None]:
    """Within a mode too, the package's tables are made once and kept, as in training."""
    with ExitStack() as stack:
        for module in [module for name, module in sys.modules.items() if name.startswith("mcl_triton.")]:
            for name, table in list(vars(module).items()):
                if hasattr(table, "_dynamo_marked_constant"):
                    stack.enter_context(patch.object(module, name, unseen(table)))
        yield


class _Launches(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

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
            self.names.append(operator.overloadpacket.__name__)
        return result


def _computes(operator: Any, arguments: object, result: object) -> bool:
    """Whether an operator of PyTorch launches a kernel: views, allocations and questions about a tensor do not."""
    name = operator.overloadpacket.__name__
    if name == "_local_scalar_dense":  # .item(), which copies, and waits for the device
        return True
    memory = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)}
    results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.numel() > 0]
    is_view = not operator._schema.is_mutable and all(leaf.untyped_storage().data_ptr() in memory for leaf in results)
    return name not in _ALLOCATIONS and not is_view


def unseen(function: Callable[..., object]) -> Callable[..., object]:
    """The same function or method, out of sight of any mode."""

    def call(*args: object, **kwargs: object) -> object:
        with _disable_current_modes():
            return function(*args, **kwargs)

    return call


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
        from . import interpreter

        interpreter.behave_like_a_gpu()
    losses: dict[str, Loss] = {
        f"mc_loss, {convention}, mask {mask_is}": ours(convention, mask_is)
        for convention in CONVENTIONS
        for mask_is in MASKS
    }
    losses |= {"plain formula, mask given": plain, "official formula, mask given": official}
    for name, loss in losses.items():
        for kind, groups in GROUPS.items():
            step = step_of(loss, groups, device)
            print(f"{name}, {kind} groups: {len(step.forward)} + {len(step.backward)} = {step.total} launches")
            print(f"  forward   {' '.join(step.forward)}")
            print(f"  backward  {' '.join(step.backward)}")


if __name__ == "__main__":
    main()
