"""Memory traffic of the kernels, counted in Triton's interpreter without a GPU: `python -m bench static --traffic`.

The unit is |F|, the bytes of the features. A step needs at least 3: forward reads F, backward reads F and writes its
gradient dF. Reads have three counts. Memory delivers the distinct sectors of 32 bytes that a launch touches. A program
fetches its own, from memory or from the cache that all programs share. It may request the same bytes again, which its
own cache holds. Mask, cross-entropy and sums work on B·C or N numbers and are left out here.

Its last table shows that everything grows in proportion to batch, classes, channels per class, and positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mcl_triton import ChannelGroups, sample_channel_mask
from mcl_triton.groups import flat_runs

from ..cases import LAYOUTS, Case, chosen
from .launches import tables_kept, unseen

SECTOR = 32  # bytes
GROUPS = (ChannelGroups.split(512, 200), ChannelGroups.uniform(200, 3), ChannelGroups.split(2048, 200))
SIDES = (7, 14, 28)


class MovedBytes(NamedTuple):
    """Bytes read, or written, in one launch.

    Attributes:
        requested: by all lanes that are not masked; bytes requested twice count twice.
        of_programs: distinct sectors of each program, added up.
        sectors: distinct sectors of the launch.
    """

    requested: int
    of_programs: int
    sectors: int


class Traffic:
    """The recorded traffic of some launches.

    Attributes:
        launches: their number.
        lanes: of all loads and stores, masked ones included.
        allocated: bytes of the tensors made, results included.
    """

    def __init__(self) -> None:
        self.launches = self.lanes = self.allocated = 0
        self._accesses: dict[str, list[tuple[int, int, np.ndarray]]] = {"read": [], "written": []}

    def add(self, kind: str, program: int, pointers: Any, mask: Any) -> None:
        """Record a load or a store of the interpreter."""
        is_on = np.broadcast_to(mask.data, pointers.data.shape)
        self.lanes += is_on.size
        itemsize = pointers.get_element_ty().primitive_bitwidth // 8
        self._accesses[kind].append((program, itemsize, pointers.data[is_on].astype(np.int64)))

    def read(self, tensor: Tensor | None = None) -> MovedBytes:
        """Reads of a tensor's memory; without one, all reads."""
        return self._sum("read", tensor)

    def written(self, tensor: Tensor | None = None) -> MovedBytes:
        """Writes likewise."""
        return self._sum("written", tensor)

    def _sum(self, kind: str, tensor: Tensor | None) -> MovedBytes:
        requested, sectors = 0, [np.empty(0, np.int64)]
        for program, itemsize, addresses in self._accesses[kind]:
            if tensor is not None:
                storage = tensor.untyped_storage()
                addresses = addresses[
                    (addresses >= storage.data_ptr()) & (addresses < storage.data_ptr() + storage.nbytes())
                ]
            requested += itemsize * addresses.size
            sectors.append(np.unique(addresses // SECTOR) | program << 43)  # addresses have 47 bits
        of_programs = np.unique(np.concatenate(sectors))
        return MovedBytes(requested, SECTOR * of_programs.size, SECTOR * np.unique(of_programs & (1 << 43) - 1).size)


@contextmanager
def record_traffic() -> Iterator[Traffic]:
    """Record the traffic of the interpreted kernels that run within."""
    from triton.runtime.interpreter import GridExecutor
    from triton.runtime.interpreter import InterpreterBuilder as Builder

    traffic = Traffic()
    load, store, set_grid = Builder.create_masked_load, Builder.create_masked_store, Builder.set_grid_dim

    def recorded_load(builder: Any, pointers: Any, mask: Any, *others: Any, **options: Any) -> Any:
        traffic.add("read", builder.grid_idx[0], pointers, mask)
        return load(builder, pointers, mask, *others, **options)

    def recorded_store(builder: Any, pointers: Any, value: Any, mask: Any, *others: Any) -> Any:
        traffic.add("written", builder.grid_idx[0], pointers, mask)
        return store(builder, pointers, value, mask, *others)

    def recorded_launch(builder: Any, *grid: int) -> None:
        traffic.launches += 1
        set_grid(builder, *grid)

    def refused(*arguments: Any) -> None:
        raise NotImplementedError("atomic operations are not counted")

    with (
        patch.object(Builder, "create_masked_load", recorded_load),  # all other loads call it
        patch.object(Builder, "create_masked_store", recorded_store),
        patch.object(Builder, "create_atomic_rmw", refused),
        patch.object(Builder, "create_atomic_cas", refused),
        patch.object(Builder, "set_grid_dim", recorded_launch),
        patch.object(GridExecutor, "__call__", unseen(GridExecutor.__call__)),  # it computes with tensors
        tables_kept(),
        _Allocations(traffic),
    ):
        yield traffic


class _Allocations(TorchDispatchMode):
    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self.traffic = traffic

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        known = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        storages = (leaf.untyped_storage() for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        made = {storage.data_ptr(): storage.nbytes() for storage in storages if storage.data_ptr() not in known}
        self.traffic.allocated += sum(made.values())
        return result


class StepTraffic(NamedTuple):
    """Traffic of forward and backward."""

    features: Tensor
    grad: Tensor
    forward: Traffic
    backward: Traffic

    @property
    def temporaries(self) -> int:
        """Bytes of all tensors made besides dF: g, h and the statistics that backward needs."""
        return self.forward.allocated + self.backward.allocated - self.grad.nbytes

    @property
    def total(self) -> int:
        """Bytes that memory moves: distinct sectors of each launch, read and written."""
        return sum(access.sectors for of in (self.forward, self.backward) for access in (of.read(), of.written()))


def record_step(
    features: Tensor, groups: ChannelGroups, mask: Tensor | None = None, scores: bool = True, diversity: bool = True
) -> StepTraffic:
    """The traffic of pooling and of its gradient; of one of the two results only, if so wanted.

    Args:
        features: (B, N, H, W), on the CPU.
        groups: of the N channels.
        mask: float32, (N,) or (B, N); None for none.
        scores, diversity: which results.
    """
    from mcl_triton.kernels import host

    runs = flat_runs(groups)
    with record_traffic() as forward:
        g, h, statistics, winners = host.forward(
            features, runs, mask, wants_scores=scores, wants_diversity=diversity, saves=True
        )
    dg, dh = (torch.ones_like(result) if result.numel() else None for result in (g, h))
    with record_traffic() as backward:
        grad = host.backward(
            features,
            runs,
            mask,
            grad_scores=dg,
            grad_diversity=dh,
            statistics=statistics,
            winners=winners,
        )
    return StepTraffic(features, grad, forward, backward)


def fewer_classes(groups: ChannelGroups) -> tuple[ChannelGroups, int]:
    """Every k-th class, and k, up to 8: as many of each size in proportion, and strides as well aligned."""
    channels, classes = groups.num_channels, groups.num_classes
    if groups != ChannelGroups.split(channels, classes):
        return groups, 1
    fraction = max(
        k
        for k in range(1, 9)
        if channels % k == classes % k == 0 and math.gcd(8, channels // k) == math.gcd(8, channels)
    )
    return ChannelGroups.split(channels // fraction, classes // fraction), fraction


def bytes_of_batch(case: Case) -> tuple[int, int]:
    """Bytes that the kernels read and write in forward and in backward.

    Counted for some classes of one sample, and multiplied; the mask and the tables are there once for all samples.
    """
    from mcl_triton.kernels.tables import tables_of

    groups, fraction = fewer_classes(case.groups)
    features = replace(case, batch=1, groups=groups).features()
    mask = sample_channel_mask(groups)
    tables = tables_of(tuple(flat_runs(groups)), features.device)
    of_cuts = (tensor for of in (tables.pieces, tables.bundles, tables.splits) for tensor in of.values())
    shared_tensors = (mask, tables.offsets, tables.class_of_channel, *of_cuts)
    step = record_step(features, groups, mask)

    def of_all(traffic: Traffic) -> int:
        shared = sum(traffic.read(tensor).sectors for tensor in shared_tensors)
        own = traffic.read().sectors + traffic.written().sectors - shared
        return fraction * (case.batch * own + shared)

    return of_all(step.forward), of_all(step.backward)


def table(cases: list[Case]) -> Iterator[str]:
    """Lines of text: for each case one of forward and one of backward."""
    yield f"{'':62}{'F read':^30}{'dF written':^20}{'rest':>8}{'temporaries':>13}{'step':>8}"
    yield f"{'':62}{'asked':>10}{'programs':>10}{'memory':>10}{'asked':>10}{'memory':>10}"
    for case in cases:
        features = case.features()
        step = record_step(features, case.groups, sample_channel_mask(case.groups))
        for direction, of in (("forward", step.forward), ("backward", step.backward)):
            read, written = of.read(features), of.written(step.grad)
            rest = of.read().sectors + of.written().sectors - read.sectors - written.sectors
            numbers = [read.requested, read.of_programs, read.sectors, written.requested, written.sectors]
            line = f"{case} {direction}".ljust(62)
            line += (
                "".join(f"{number / features.nbytes:10.3f}" for number in numbers) + f"{rest / features.nbytes:8.3f}"
            )
            if direction == "backward":
                line += f"{step.temporaries / features.nbytes:12.2%} {step.total / features.nbytes:8.3f}"
            yield line


class Size(NamedTuple):
    """Features of C classes with ξ channels each and square maps."""

    batch: int = 1
    classes: int = 8
    channels: int = 3  # of each class
    side: int = 7

    def step(self, layout: str) -> StepTraffic:
        """The traffic of a step, with one mask per sample."""
        groups = ChannelGroups.uniform(self.classes, self.channels)
        features = Case(self.batch, groups, self.side, layout=layout).features()
        return record_step(features, groups, sample_channel_mask(groups, batch_size=self.batch))


# 16 times as much of each.
LARGER = {"B": Size(batch=16), "C": Size(classes=128), "ξ": Size(channels=48), "P": Size(side=28)}


def amounts(step: StepTraffic) -> dict[str, int]:
    """Amounts that must grow in proportion, and the number of launches, which must not grow."""
    both = (step.forward, step.backward)
    read, written = (of.read(step.features).requested for of in both), step.backward.written(step.grad).requested
    everything = sum(access.requested for of in both for access in (of.read(), of.written()))
    amount = {"F read": sum(read), "dF written": written}
    return amount | {
        "rest": everything - sum(amount.values()),
        "lanes": sum(of.lanes for of in both),
        "temporaries": step.temporaries,
        "launches": sum(of.launches for of in both),
    }


def scale_table(layout: str) -> Iterator[str]:
    """Lines of text: the amounts of a small step, and how many times as much they are for 16 times the size."""
    base = amounts(Size().step(layout))
    yield layout.ljust(16) + "".join(name.rjust(12) for name in base)
    yield "bytes".ljust(16) + "".join(f"{amount:12}" for amount in base.values())
    for name, size in LARGER.items():
        larger = amounts(size.step(layout))
        yield f"16 times {name}".ljust(16) + "".join(f"{larger[key] / base[key]:12.2f}" for key in base)


def main(parts: Sequence[str]) -> None:
    """Print the traffic of the cases whose line contains one of the parts, and how it grows."""
    cases = chosen(
        [
            Case(1, fewer_classes(groups)[0], side, dtype, layout)
            for groups in GROUPS
            for side in SIDES
            for layout in LAYOUTS
            for dtype in (torch.float32, torch.bfloat16)
        ],
        parts,
    )
    for line in table(cases):
        print(line, flush=True)
    for layout in LAYOUTS:
        print(*scale_table(layout), sep="\n", flush=True)
