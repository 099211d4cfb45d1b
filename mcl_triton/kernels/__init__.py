"""The kernels in Triton and how they are launched; `run` is imported when first used, and Triton not before."""
