"""CUDA graphs on a CPU: the operators of a step are recorded, and repeated on the same memory without Python.

So whatever a step decides in Python, or reads from a tensor there, is the same in each replay, as it is on a GPU.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any
from unittest.mock import Mock, patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class RecordedGraph(TorchDispatchMode):
    """Stand-in for `torch.cuda.CUDAGraph` without a GPU; also the context that captures."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self.before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self.made: dict[int, torch.UntypedStorage] = {}

    def __enter__(self) -> RecordedGraph:
        self.random_state = torch.get_rng_state()
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        """Capturing computes nothing on a GPU: what was there is as it was, and what is new has no numbers yet."""
        super().__exit__(*exception)
        torch.set_rng_state(self.random_state)
        for storage, content in self.before.values():
            storage.copy_(content)
        for storage in self.made.values():
            storage.fill_(255)  # a float of such bytes is not a number

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for storage in storages((args, kwargs)):
            if storage.data_ptr() not in self.made:
                self.before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        result = operation(*args, **kwargs)
        for storage in storages(result):
            if storage.data_ptr() not in self.before:
                self.made[storage.data_ptr()] = storage
        self.calls.append((operation, args, kwargs, result))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        for operation, args, kwargs, result in self.calls:
            again = operation(*args, **kwargs)
            for old, new in zip(tensors(result), tensors(again), strict=True):
                if old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    old.copy_(new)


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def storages(tree: Any) -> list[torch.UntypedStorage]:
    return [tensor.untyped_storage() for tensor in tensors(tree)]


def stand_in_without_a_gpu() -> None:
    """Until `patch.stopall`, run code for a GPU that captures a graph on the CPU; nothing where there is a GPU."""
    if torch.cuda.is_available():
        return
    for place, name, replacement in (
        (torch.Tensor, "cuda", lambda tensor: tensor),
        (torch.nn.Module, "cuda", lambda module: module),
        (torch.cuda, "Stream", Mock),
        (torch.cuda, "current_stream", Mock),
        (torch.cuda, "stream", nullcontext),
        (torch.cuda, "CUDAGraph", RecordedGraph),
        (torch.cuda, "graph", lambda graph: graph),
    ):
        patch.object(place, name, replacement).start()
