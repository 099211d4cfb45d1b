"""The small tables that the kernels read: where the channels of each class begin, and where tiles do."""

from __future__ import annotations

import torch
from torch import Tensor

from ..tracing import once_per_device
from .launch import channel_offsets, ways_to_cut


@once_per_device
def tables_of(runs: tuple[int, ...], device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """The channel offsets of these groups, (C + 1,) int32, and the cuts of each of `ways_to_cut`, int32."""

    def table(numbers: tuple[int, ...]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int32, device="cpu").to(device)

    return table(channel_offsets(runs)), [table(cuts) for cuts in ways_to_cut(runs)]
