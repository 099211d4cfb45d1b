"""Triton's interpreter, made fit for tests and for counting."""

import warnings

import torch
import triton.language as tl
from triton.runtime import interpreter as of_triton
from triton.runtime.interpreter import GridExecutor, InterpretedFunction, InterpreterBuilder, ReduceOps, TensorHandle

_launch = GridExecutor.__call__
_call = InterpretedFunction.__call__
_cast = InterpreterBuilder.cast_impl
_patch_tensor = of_triton._patch_lang_tensor


def _reduce_by_halves(self, values):
    """`ReduceOps.generic_reduce` on whole arrays, half by half as on a GPU, in place of element by element."""
    values, axis = self.unravel(values, self.axis)

    def part(value, indices):
        return self.to_tensor(value.handle.data.take(indices, axis), value.dtype)

    while (length := values[0].handle.data.shape[axis]) > 1:  # a power of two, as every dimension of a tile
        first, second = (
            [part(value, range(*half)) for value in values] for half in ((length // 2,), (length // 2, length))
        )
        values = self.combine_fn.fn(*first, *second)
        values = [values] if isinstance(values, tl.core.tensor) else list(values)
    return values if self.keep_dims else [part(value, 0) for value in values]


def behave_like_a_gpu():
    """Numbers as a GPU has them: bfloat16 rounded, sums of bounded error, and not a word about NaN and infinities.

    And in less time: reductions by functions of our own, and calls of a function within a kernel.
    """
    GridExecutor.__call__ = _launch_silently
    InterpretedFunction.__call__ = _call_function
    InterpreterBuilder.cast_impl = _cast_with_rounding
    ReduceOps.generic_reduce = _reduce_by_halves
    ReduceOps.sum = _sum_by_halves
    of_triton._patch_lang_tensor = _patch_tensor_for_numpy


def _launch_silently(self, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.simplefilter("ignore", DeprecationWarning)  # of NumPy, in Triton 3.5
        return _launch(self, *arguments, **options)


def _call_function(self, *arguments, **options):
    """Triton's own patches its language for each call; once is enough for a launch."""
    modules = [value for value in self.fn.__globals__.values() if value is tl or value is tl.core]
    if any(tl.core.is_builtin(module.load) for module in modules):
        return _call(self, *arguments, **options)
    return self.rewrite()(*arguments, **options)


def _patch_tensor_for_numpy(tensor, *scope):
    """A loop's bound is an array of one element, which Triton 3.6 gives to `int`; NumPy 2.5 refuses that."""
    _patch_tensor(tensor, *scope)
    tensor.__index__ = lambda self: self.handle.data.item()


def _cast_with_rounding(self, source, dtype):
    """To the nearest bfloat16, where Triton's own cuts bits off; from bfloat16, subnormal numbers included."""
    from_to = source.dtype.scalar, dtype.scalar
    if from_to == (tl.float32, tl.bfloat16):
        return TensorHandle(torch.tensor(source.data).bfloat16().view(torch.uint16).numpy(), tl.bfloat16)
    if from_to == (tl.bfloat16, tl.float32):
        return TensorHandle(torch.tensor(source.data).view(torch.bfloat16).float().numpy(), tl.float32)
    return _cast(self, source, dtype)


def _sum_by_halves(self, values):
    """NumPy adds along the first axis one after the other, whose error grows with the length."""
    return _reduce_by_halves(self, (values,))[0]
