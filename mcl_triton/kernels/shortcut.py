"""Launching a kernel: through Triton the first time, past its binder and its cache when the same launch comes again.

An ordinary launch, ``kernel[grid](**arguments)``, looks at each argument to find the compiled kernel that fits. Here
the numbers are part of what is kept, and of the tensors only dtypes and alignments can differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from types import MappingProxyType
from typing import Any

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
        # By device, and dtype and alignment of each tensor: the compiled kernel, and all its arguments with gaps for
        # the tensors' addresses.
        self._compiled: dict[tuple[Any, ...], tuple[CompiledKernel, list[Any], list[tuple[int, str]]]] = {}

    def __call__(self, device: torch.device, floats: Mapping[str, float] = _NO_FLOATS, /, **tensors: Tensor) -> None:
        """Launch on the current stream of a device, that of all tensors.

        Args:
            device: of all tensors, with its index.
            floats: arguments that may change from launch to launch; Triton compiles the same for all their values.
            tensors: arguments by name, in the same order every time. Those that the kernel does not take are left out.
        """
        addresses = {name: tensor.data_ptr() for name, tensor in tensors.items()}
        key = (
            device,
            *[tensor.dtype for tensor in tensors.values()],
            *[address % _ALIGNMENT for address in addresses.values()],
        )
        with _entered(device):
            found = self._compiled.get(key)
            if found is None or not self._is_undisturbed():
                self._launch_through_triton(key, {**tensors, **floats})
                return
            compiled, values, gaps = found
            arguments = values.copy()
            given = {**addresses, **floats} if floats else addresses
            for place, name in gaps:
                arguments[place] = given[name]
            stream = driver.active.get_current_stream(driver.active.get_current_device())
            compiled.run(
                self.programs, 1, 1, stream, compiled.function, compiled.packed_metadata, None, None, None, *arguments
            )

    def _launch_through_triton(self, key: tuple[Any, ...], given: dict[str, Tensor | float]) -> None:
        names = self.kernel.arg_names
        taken = {name: of for name, of in given.items() if name in names}
        compiled = self.kernel[(self.programs,)](**taken, **self.numbers)
        # None where the kernel is interpreted; something else while Triton compiles in the background.
        if IS_KNOWN and isinstance(compiled, CompiledKernel) and self._is_undisturbed():
            gaps = [(place, name) for place, name in enumerate(names) if name in taken]
            self._compiled[key] = compiled, [self.numbers.get(name) for name in names], gaps

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


def _entered(device: torch.device) -> Any:
    """Kernels are launched on the current device, which need not be that of the features."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)
