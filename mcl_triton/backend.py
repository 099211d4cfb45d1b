"""The choice of the code that computes, Triton kernels or plain PyTorch, and of its dtype."""

from __future__ import annotations

import os
import warnings
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from .tracing import constant_result

_HAS_TRITON = find_spec("triton") is not None
_OLDEST_CAPABILITY = (7, 0)  # compute capability that PyTorch's own compiler asks for before it uses Triton


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
    """Return whether the kernels compute on a device.

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
    return backend == "triton" or (
        backend == "auto" and device.type == "cuda" and _HAS_TRITON and _is_new_enough(device)
    )


def working_dtype(features: Tensor) -> torch.dtype:
    """The dtype of g and h, and of all computation: float64 for float64 features, float32 for all others."""
    return torch.float64 if features.dtype == torch.float64 else torch.float32


@constant_result  # torch.compile looks through the cache, and would trace the warning
def _is_new_enough(device: torch.device) -> bool:
    return _compare_capability(device)


@cache
def _compare_capability(device: torch.device) -> bool:
    """Return whether Triton supports a CUDA or ROCm device; warn, once per device, if it does not."""
    if torch.version.hip is not None or not torch.cuda.is_available():  # a fake device of a machine without one
        return True
    capability = torch.cuda.get_device_capability(device)
    if capability < _OLDEST_CAPABILITY:
        warnings.warn(
            f'backend="auto" takes plain PyTorch on {device}, which is slower than the kernels: '
            f"Triton needs compute capability {_dotted(_OLDEST_CAPABILITY)}, "
            f"{torch.cuda.get_device_name(device)} has {_dotted(capability)}. "
            'backend="eager" takes it without this warning.',
            stacklevel=2,
        )
    return capability >= _OLDEST_CAPABILITY


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
