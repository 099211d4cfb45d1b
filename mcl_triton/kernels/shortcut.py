"""Launching a kernel: through Triton the first time, past its binder and its cache when the same launch comes again.

An ordinary launch, ``kernel[grid](**arguments)``, looks at each argument to find the compiled kernel that fits. Here
the numbers are part of what is kept, and of the tensors only dtypes and alignments can differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from operator import attrgetter, or_
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton import knobs
from triton.compiler import CompiledKernel
from triton.runtime import driver

_ALIGNMENT = 16  # bytes; Triton compiles a kernel of its own for pointers that are multiples of it
_NO_FLOATS: Mapping[str, float] = MappingProxyType({})
_OPTIONS = ("num_warps", "debug", "sanitize_overflow")  # of the compiler: no arguments of a kernel

# Releases whose compiled kernels were seen to take these arguments, and to depend on nothing else. On AMD they depend
# on the size of the tensors, too.
_RELEASE = tuple(int(number) for number in triton.__version__.split(".")[:2])
IS_KNOWN = (3, 5) <= _RELEASE <= (3, 9) and torch.version.hip is None


_address_of = Tensor.data_ptr
_dtype_of = attrgetter("dtype")


class _Compiled(NamedTuple):
    """A compiled kernel and its arguments.

    Attributes:
        run, function, metadata: Triton's launcher, the driver's handle of the kernel, and what the launcher asks for.
        arguments: all of the kernel's, with gaps for tensors and floats.
        tensors: place among the arguments, and among the tensors that a launch is given.
        floats: place among the arguments, and name.
    """

    run: Callable[..., None]
    function: Any
    metadata: Any
    arguments: list[Any]
    tensors: list[tuple[int, int]]
    floats: list[tuple[int, str]]


class Prepared:
    """The launch of a kernel with all arguments but the tensors.

    Args:
        kernel: compiled by `triton.jit`, or interpreted.
        programs: how many.
        numbers: arguments by name, and options of the compiler. Those that the kernel does not take are left out.
    """

    def __init__(self, kernel: Any, programs: int, numbers: Mapping[str, float]) -> None:
        self.kernel = kernel
        self.programs = programs
        self.numbers = {
            name: number for name, number in numbers.items() if name in kernel.arg_names or name in _OPTIONS
        }
        # By device and dtypes, and by alignments unless all tensors are aligned.
        self._compiled: dict[tuple[Any, ...], _Compiled] = {}

    def __call__(self, device: torch.device, floats: Mapping[str, float] = _NO_FLOATS, /, **tensors: Tensor) -> None:
        """Launch on the current stream of a device, that of all tensors.

        Args:
            device: of all tensors, with its index.
            floats: arguments that may change from launch to launch; Triton compiles the same for all their values.
            tensors: arguments by name, in the same order every time. Those that the kernel does not take are left out.
        """
        if device.type == "cuda" and device.index != torch.cuda.current_device():
            with torch.cuda.device(device):
                self._launch(device, floats, tensors)
        else:
            self._launch(device, floats, tensors)

    def _launch(self, device: torch.device, floats: Mapping[str, float], tensors: dict[str, Tensor]) -> None:
        addresses = [*map(_address_of, tensors.values())]
        key = (device, *map(_dtype_of, tensors.values()))
        if reduce(or_, addresses) % _ALIGNMENT:
            key += tuple(address % _ALIGNMENT == 0 for address in addresses)
        found = self._compiled.get(key)
        if found is None or not self._is_undisturbed():
            self._launch_through_triton(key, {**tensors, **floats})
            return
        arguments = found.arguments.copy()
        for place, index in found.tensors:
            arguments[place] = addresses[index]
        for place, name in found.floats:
            arguments[place] = floats[name]
        stream = driver.active.get_current_stream(device.index)
        # Without hooks, and without what only they ask for.
        found.run(self.programs, 1, 1, stream, found.function, found.metadata, None, None, None, *arguments)

    def _launch_through_triton(self, key: tuple[Any, ...], given: dict[str, Tensor | float]) -> None:
        names = self.kernel.arg_names
        taken = {name: of for name, of in given.items() if name in names}
        compiled = self.kernel[(self.programs,)](**taken, **self.numbers)
        # None where the kernel is interpreted; something else while Triton compiles in the background.
        if IS_KNOWN and isinstance(compiled, CompiledKernel) and self._is_undisturbed():
            order = list(given)
            places = {name: place for place, name in enumerate(names) if name in taken}
            self._compiled[key] = _Compiled(
                compiled.run,
                compiled.function,
                compiled.packed_metadata,
                [self.numbers.get(name) for name in names],
                [(place, order.index(name)) for name, place in places.items() if isinstance(given[name], Tensor)],
                [(place, name) for name, place in places.items() if not isinstance(given[name], Tensor)],
            )

    def _is_undisturbed(self) -> bool:
        """Whether nothing asks to see each launch, or to have the kernel compiled in another way."""
        runtime = knobs.runtime
        return not (
            runtime.launch_enter_hook.calls
            or runtime.launch_exit_hook.calls
            or runtime.debug
            or self.kernel.pre_run_hooks
            or getattr(runtime, "add_stages_inspection_hook", None)  # since Triton 3.6, like the next
            or getattr(knobs.compilation, "instrumentation_mode", "")
        )
