"""Batches of each step: the order and the augmentation of the samples as a function of (seed, epoch, sample).

No random state has to be saved: an interrupted epoch goes on at its next batch as if nothing had happened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from .interrupt import ignore_interrupt


def derived_seed(*parts: int | str) -> int:
    """A seed that depends on every part and is the same on every machine: ``derived_seed(3, "order", 7)``."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")


def batches(
    dataset: Dataset[Any],
    batch_size: int,
    seed: int,
    steps: range,
    *,
    parts: int = 1,
    mine: range | None = None,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[Any]:
    """The batches of the given steps, counted from the start of the training, each epoch in a random order of its own.

    An incomplete last batch of an epoch is left out, as batch norm would be noisy on it and fails on a single sample.

    Args:
        dataset: its random transforms draw PyTorch's random numbers.
        batch_size: images per step.
        seed: of the order and the transforms.
        steps: those wanted.
        parts: how many equal parts each batch is cut in; they come one after the other.
        mine: which of the parts are wanted; by default all.
        workers: processes that read ahead; nothing depends on how many.
        pin_memory: see `torch.utils.data.DataLoader`.
    """
    keys = _keys(len(dataset), batch_size, seed, steps, parts, range(parts) if mine is None else mine)  # type: ignore[arg-type]
    loader = DataLoader(
        _Keyed(dataset, seed),
        batch_sampler=keys,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=ignore_interrupt,
    )
    return iter(loader)


def _keys(
    size: int, batch_size: int, seed: int, steps: range, parts: int, mine: range
) -> Iterator[list[tuple[int, int]]]:
    """The epoch and the index of each sample, part by part."""
    steps_per_epoch, part_size = size // batch_size, batch_size // parts
    for step in steps:
        epoch, position = divmod(step, steps_per_epoch)
        if position == 0 or step == steps.start:
            generator = torch.Generator().manual_seed(derived_seed(seed, "order", epoch))
            order = torch.randperm(size, generator=generator).tolist()
        for part in mine:
            start = position * batch_size + part * part_size
            yield [(epoch, index) for index in order[start : start + part_size]]


class _Keyed(Dataset[Any]):
    """A data set whose random transforms draw the same numbers whenever a sample is read in the same epoch."""

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derived_seed(self.seed, "sample", epoch, index))
            return self.dataset[index]
