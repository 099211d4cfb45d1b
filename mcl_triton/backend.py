"""Which code computes, and in which dtype: the Triton kernels, or plain PyTorch."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch
from torch import Tensor

_HAS_TRITON = find_spec("triton") is not None


def check_backend(backend: str) -> None:
    """Raise ValueError for an unknown backend, ImportError for one that is not installed."""
    if backend not in ("auto", "eager", "triton"):
        raise ValueError(f'backend must be "auto", "eager" or "triton"; got {backend!r}.')
    if backend == "triton" and not _HAS_TRITON:
        raise ImportError(
            'backend="triton" needs the package triton, which is not installed here. On Linux: pip install triton. '
            'backend="auto" takes plain PyTorch without it.'
        )


def uses_kernels(backend: str, device: torch.device) -> bool:
    """Whether the kernels compute on a device.

    Raises:
        ValueError: an unknown backend, or ``"triton"`` on a device without kernels.
        ImportError: ``"triton"`` where it is not installed.
    """
    check_backend(backend)
    if backend == "triton" and device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f'backend="triton" needs a CUDA or ROCm device; got {device}. backend="auto" takes plain PyTorch there. '
            "For tests, TRITON_INTERPRET=1 in the environment runs the kernels in Triton's interpreter, which needs "
            "NumPy."
        )
    return backend == "triton" or (backend == "auto" and device.type == "cuda" and _HAS_TRITON)


def working_dtype(features: Tensor) -> torch.dtype:
    """The dtype of g and h, and of all computation: float64 for float64 features, float32 for all others."""
    return torch.promote_types(features.dtype, torch.float32)
