"""An error on purpose, by which a tool that looks for errors shows that it works."""

import triton
import triton.language as tl


@triton.jit
def planted_error_kernel(memory, SIZE: tl.constexpr):
    """Write SIZE ones, however much memory there is."""
    tl.store(memory + tl.arange(0, SIZE), 1.0)
