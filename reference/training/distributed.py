"""Several processes that train one network, started by ``torchrun``; without it, one process alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import distributed, nn


def choose_device(name: str) -> torch.device:
    """The device to train on; "auto" is an accelerator where there is one, else the CPU.

    Without a number it is this process's own, so that processes that torchrun started have one each.

    Raises:
        ValueError: there is no such device.
    """
    try:
        if name == "auto":
            device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        else:
            device = torch.device(name)
        if device.index is None and device.type != "cpu":
            device = torch.device(device.type, int(os.environ.get("LOCAL_RANK", 0)))
        torch.empty(0, device=device).cpu()  # "meta" has no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # what PyTorch raises differs by device
        rank = os.environ.get("LOCAL_RANK")
        of_process = f", for process {rank} of those that torchrun started here" if rank is not None else ""
        raise ValueError(
            f"device must be auto or one of this machine, such as cpu or cuda:0; got {name!r}{of_process}. "
            f"Accelerators here: {torch.accelerator.device_count()}."
        ) from error
    return device


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started with this one; changes nothing where it started none."""
    if not (distributed.is_available() and distributed.is_torchelastic_launched()):
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # What is counted goes by gloo, so that it does not wait for the GPU.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """The number of this process, from 0."""
    return distributed.get_rank() if _are_several() else 0


def size() -> int:
    """Number of processes that train together."""
    return distributed.get_world_size() if _are_several() else 1


def total(values: Sequence[float]) -> list[float]:
    """The sum of each value over the processes."""
    if not _are_several():
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(sums)
    result: list[float] = sums.tolist()
    return result


def any_process(is_true: bool) -> bool:
    """Return whether it is true in at least one process, in each of them."""
    return total([float(is_true)])[0] > 0


def share_buffers(network: nn.Module) -> None:
    """Give every process the buffers of the first one, such as the statistics of batch norm."""
    if _are_several():
        for buffer in network.buffers():
            distributed.broadcast(buffer, 0)


def _are_several() -> bool:
    return distributed.is_available() and distributed.is_initialized()
