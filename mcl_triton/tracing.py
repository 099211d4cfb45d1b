"""How torch.compile, vmap and torch.func see this package: constants for compiler and device, and active transforms.

All parts of PyTorch that are not public are used here, but for one operator in `eager`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils._pytree import register_constant

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Number = TypeVar("Number", int, float)
Class = TypeVar("Class")


def constant_when_compiled(cls: type[Class]) -> type[Class]:
    """Decorate an immutable class whose instances `torch.compile` is to take as constants."""
    register_constant(cls)
    return cls


def refuse_to_be_traced(name: str) -> None:
    """Raise a RuntimeError where `torch.compile` traces: an object made then has no attributes until the graph runs."""
    if torch.compiler.is_dynamo_compiling():
        raise RuntimeError(f"make {name} before the function that torch.compile compiles, not inside of it.")


def constant(number: Number) -> Number:
    """The number itself; `torch.compile` takes it as a constant and compiles again for another number."""
    if torch.compiler.is_compiling():
        from torch.fx.experimental.symbolic_shapes import guard_scalar  # slow to import; the compiler has done so

        return cast("Number", guard_scalar(number))
    return number


def constant_result(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Decorate a function of constants, such that `torch.compile` calls it and takes its result as a constant.

    Numbers read from a constant object become symbols once they differ between two compilations; this result does not.
    """
    # torch.compiler.assume_constant_result does the same, but imports the compiler, and Triton with it.
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def is_transformed() -> bool:
    """Whether a dispatch mode or a transform of `torch.func` is active: tensors made now may be fake or wrapped."""
    return _get_current_dispatch_mode() is not None or torch._C._are_functorch_transforms_active()


def is_under_functorch() -> bool:
    """Whether a transform of `torch.func` is active; not asked while `torch.compile` traces."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


@constant_result
def is_in_functorch() -> bool:
    """Whether a transform of `torch.func` is active, also while `torch.compile` traces it."""
    return torch._C._are_functorch_transforms_active()


def values_are_readable() -> bool:
    """Whether tensors hold numbers now: not under `torch.compile` or `vmap`, nor among fake tensors."""
    return not torch.compiler.is_compiling() and not is_transformed()


def are_plain(*tensors: Tensor | None) -> bool:
    """Whether what is done to tensors is done at once: nothing traces, batches or replaces it."""
    if not values_are_readable():
        return False
    for tensor in tensors:
        if tensor is not None and (
            type(tensor) not in (Tensor, Parameter)
            or tensor.is_meta
            or tensor.is_neg()
            or tensor._is_zerotensor()
            or torch._C._functorch.is_legacy_batchedtensor(tensor)  # by ``is_grads_batched``
        ):
            return False
    return True


def is_differentiated_by_functorch(tensor: Tensor) -> bool:
    """Whether `torch.func` computes a gradient with respect to a tensor; not asked while `torch.compile` traces."""
    if torch.compiler.is_compiling():
        return False
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):  # a transform each, the innermost first
        if functorch.is_gradtrackingtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False


def once_per_device(make: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Decorate a function of hashable arguments that makes tensors, so that it runs once and a step copies nothing.

    `torch.compile` takes the result as a constant. Under a transform the tensors are made anew each time: a fake or
    wrapped one must not outlive it.
    """

    def make_ordinary(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        with torch.inference_mode(False):  # a tensor made in inference mode could never take part in training
            return make(*args, **kwargs)

    # Typed, since 1 and 1.0 are equal and can mean different things.
    # Nothing is ever dropped: a CUDA graph that was captured with a table goes on to read it.
    cached = cast("Callable[Parameters, Result]", lru_cache(maxsize=None, typed=True)(make_ordinary))

    @wraps(make)
    def table(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        return (make_ordinary if is_transformed() else cached)(*args, **kwargs)

    return constant_result(table)
