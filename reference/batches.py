"""What each step trains on: the order and the augmentation of the samples as a function of (seed, epoch, sample).

No random state has to be saved: an interrupted epoch goes on at its next batch as if nothing had happened.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset


def derived_seed(*parts: int | str) -> int:
    """A seed that depends on every part and is the same on every machine: ``derived_seed(3, "order", 7)``."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")


def batches_of_epoch(dataset: Dataset[Any], batch_size: int, seed: int, epoch: int, skip: int = 0) -> DataLoader[Any]:
    """The batches of one epoch, in random order, without the first ``skip``.

    An incomplete last batch is left out, as batch norm would be noisy on it and fails on a single sample.
    """
    size = len(dataset)  # type: ignore[arg-type]
    order = torch.randperm(size, generator=torch.Generator().manual_seed(derived_seed(seed, "order", epoch)))
    batches = order[: size - size % batch_size].reshape(-1, batch_size).tolist()
    return DataLoader(_Epoch(dataset, seed, epoch), batch_sampler=batches[skip:])


class _Epoch(Dataset[Any]):
    """A data set whose random transforms draw the same numbers whenever a sample is read in the same epoch."""

    def __init__(self, dataset: Dataset[Any], seed: int, epoch: int) -> None:
        self.dataset, self.seed, self.epoch = dataset, seed, epoch

    def __getitem__(self, index: int) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derived_seed(self.seed, "sample", self.epoch, index))
            return self.dataset[index]
