"""Compile the kernels for several GPUs, on a machine without one: `python -m bench static --kernels`.

For a table of realistic shapes, the host code of the kernels is run on tensors without data, and what it would launch
is compiled for several GPUs instead. Registers, spills and widths of memory accesses are read off the result. Launches
that Triton would serve with the same compiled kernel are compiled once, and so are those whose kernels differ in
numbers of channels or in strides, but not in their alignment.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import product
from math import gcd
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from mcl_triton import ChannelGroups
from mcl_triton.backend import working_dtype
from mcl_triton.groups import flat_runs
from reference.training.environment import usable_cores

from ..cases import CLASSES, LAYOUTS, Case
from .access_widths import Access, accesses

# Triton is imported by the workers alone: in a process that sets TRITON_INTERPRET it could not compile.

TARGETS = {  # what Triton calls backend, architecture and size of a warp
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}
BATCH = 16  # changes no kernel
GROUP_SIZES = ((512, 1), (32, 64), (6, 340))  # classes and channels of each


@dataclass(frozen=True)
class Variant(Case):
    """A case without data, and the request to the kernels.

    Attributes:
        layout: also "every second channel", "batch last" or "misaligned".
        mask: the mask that is drawn and used: "shared", "a sample" or "none".
        wants: the results: "both", "scores" or "diversity".
    """

    mask: str = "shared"
    wants: str = "both"

    @staticmethod
    def of(case: Case) -> Variant:
        """The usual request for a case."""
        return Variant(**{field.name: getattr(case, field.name) for field in fields(case)})

    def __str__(self) -> str:
        odd = [f"mask {self.mask}"] * (self.mask != "shared") + [f"{self.wants} only"] * (self.wants != "both")
        return " ".join([super().__str__(), *odd])

    def features(self, seed: int = 0) -> Tensor:
        """(B, N, H, W) without data, whatever the seed."""
        empty = self.empty("meta")
        if self.layout == "every second channel":
            return empty.repeat(1, 2, 1, 1)[:, ::2]
        if self.layout == "batch last":
            return empty.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
        if self.layout == "misaligned":  # the second sample of maps that end at an odd element
            return empty.new_empty(empty.numel() + 1)[1:].view(self.size)
        return empty


class Report(NamedTuple):
    """A compiled kernel."""

    target: str
    kernel: str  # for example "whole_maps.forward"; that of the mask is "masks.mask"
    constants: dict[str, int]
    cases: tuple[Variant, ...]  # all that it serves
    registers: int  # per thread; VGPRs on AMD
    stack: int  # bytes of local memory per thread; scratch on AMD
    spills: int  # vector registers that AMD's compiler reports; NVIDIA's are part of the stack
    scalar_spills: int  # on AMD: not to memory, but to a vector register
    shared: int  # bytes
    maps: tuple[Access, ...]
    others: dict[int, int]  # how many other instructions access global memory, by their width
    seconds: float

    def widths(self, what: str) -> set[int]:
        """Bytes of the instructions for "load features" or "store grad"."""
        return {width for access in self.maps if access.what == what for width in access.widths}


def realistic_cases() -> list[Variant]:
    """Classes of CUB, Aircraft, Cars and Flowers; channels of VGG16 and ResNets, and three per class from scratch."""
    groups = [
        ChannelGroups.split(channels, classes)
        for classes in CLASSES.values()
        for channels in (512, 2048, 3 * classes)  # VGG16 and ResNet18, ResNet50, from scratch
    ]
    dtypes = (torch.float32, torch.bfloat16)
    return [Variant(BATCH, *case) for case in product(groups, (7, 14, 28, 56), dtypes, LAYOUTS)]


def odd_cases() -> list[Variant]:
    """A few cases of every other kind."""
    scratch, resnet50 = ChannelGroups.uniform(200, 3), ChannelGroups.split(2048, 200)
    odd = []
    for layout, groups in zip(LAYOUTS, (scratch, resnet50), strict=True):
        usual = Variant(BATCH, groups, 14, torch.bfloat16, layout)
        odd += [replace(usual, mask="none"), replace(usual, mask="a sample")]
        odd += [replace(usual, wants="scores"), replace(usual, wants="diversity", mask="none")]
        odd += [replace(usual, dtype=torch.float16), replace(usual, dtype=torch.float64)]
        odd += [replace(usual, side=112), replace(usual, side=112, dtype=torch.float32)]
    for layout, dtype in product(LAYOUTS, (torch.float32, torch.bfloat16)):
        odd += [Variant(BATCH, ChannelGroups.uniform(*sizes), 14, dtype, layout) for sizes in GROUP_SIZES]
    # One sample of one class: Triton makes constants of arguments that are 1.
    odd += [Variant(1, ChannelGroups.uniform(1, channels), side) for channels, side in ((3, 14), (3, 112), (2000, 14))]
    # Few large groups in small batches: more warps, shorter pieces and smaller blocks than otherwise.
    odd += [Variant(1, ChannelGroups.uniform(2, 160), 32), Variant(1, ChannelGroups.uniform(1, 800), 14, torch.float64)]
    odd += [Variant(1, ChannelGroups.uniform(1, 600), 65, layout=layout) for layout in LAYOUTS]
    layouts = ("every second channel", "batch last", "misaligned")
    return odd + [Variant(BATCH, scratch, 14, *which) for which in product((torch.float32, torch.bfloat16), layouts)]


@contextmanager
def workers(interpret: bool = False) -> Iterator[ProcessPoolExecutor]:
    """Processes in which the kernels are compiled, or interpreted, whatever TRITON_INTERPRET is here."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(usable_cores(), spawn, _start_worker, (interpret,)) as pool:
        yield pool


def compile_cases(pool: ProcessPoolExecutor, cases: Iterable[Variant], targets: Iterable[str]) -> list[Report]:
    """Every distinct kernel of these cases for every target."""
    cases, targets = list(cases), list(targets)
    found = zip(targets, pool.map(_distinct, targets, [cases] * len(targets)), strict=True)
    compiled = [
        (pool.submit(compile_one, target, alike[0], direction), alike)
        for target, kernels in found
        for (direction, *_), alike in kernels.items()
    ]
    return [report.result()._replace(cases=tuple(alike)) for report, alike in compiled]


def compile_one(target: str, case: Variant, direction: str, **constants: int) -> Report:
    """One kernel of a case, "forward", "backward" or "mask", for a target, some constants replaced; in a worker."""
    launch = launches_of(case)[direction]
    return _report(target, case, launch, constants, *compiled(target, launch, constants))


def widths_in_machine_code(target: str, case: Variant, direction: str) -> dict[str, set[int]]:
    """The widths of all loads and stores in the machine code for an NVIDIA GPU; in a worker."""
    kernel, _ = compiled(target, launches_of(case)[direction])
    code = _on_cubin(kernel.asm["cubin"], "nvdisasm", "-c")
    widths: dict[str, set[int]] = {"load": set(), "store": set()}
    for operation, modifiers in re.findall(r"\b(LDG|STG)((?:\.\w+)*)", code):
        bits = re.search(r"\.[US]?(8|16|64|128|256)\b", modifiers)
        widths[{"LDG": "load", "STG": "store"}[operation]].add(int(bits.group(1)) // 8 if bits else 4)
    return widths


class _Launch(NamedTuple):
    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    constants: dict[str, Any]  # of the arguments those that are constants of the kernel, and the compiler's options


def _start_worker(interpret: bool) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")
    os.environ.pop("TRITON_INTERPRET", None)
    # Triton's own cache may have the kernels of another checkout, whose lines are not those of the files here.
    os.environ["TRITON_CACHE_DIR"] = str(Path(__file__).parents[2] / "build" / "triton")
    if interpret:
        os.environ["TRITON_INTERPRET"] = "1"
        from . import interpreter

        interpreter.behave_like_a_gpu()


def launches_of(case: Variant) -> dict[str, _Launch]:
    """The launches of `host.forward`, `host.backward` and `host.channel_mask` for a case."""
    from mcl_triton.kernels import host
    from mcl_triton.kernels.shortcut import Prepared

    launches = {}

    def record(launch: Prepared, _: object, tensors: dict[str, Tensor]) -> None:
        constants = {name: of for name, of in launch.numbers.items() if name.isupper() or name.startswith("num_warps")}
        arguments = {name: tensors[name] for name in launch.kernel.arg_names if name in tensors} | launch.numbers
        direction = launch.kernel.fn.__name__.removesuffix("_kernel")
        launches[direction] = _Launch(launch.kernel, (launch.programs,), arguments, constants)

    features, runs = case.features(), flat_runs(case.groups)
    mask = None if case.mask == "none" else features.new_empty(features.shape[:2], dtype=working_dtype(features))
    mask = mask[0] if case.mask == "shared" else mask
    wants_scores, wants_diversity = case.wants != "diversity", case.wants != "scores"
    with patch.object(Prepared, "_launch_through_triton", record):
        scores, diversity, *statistics = host.forward(
            features,
            runs,
            mask,
            wants_scores=wants_scores,
            wants_diversity=wants_diversity,
            saves=True,
        )
        host.backward(
            features,
            runs,
            mask,
            grad_scores=scores if wants_scores else None,  # shaped like the results
            grad_diversity=diversity if wants_diversity else None,
            statistics=statistics[0],
            winners=statistics[1],
        )
        if mask is not None:
            keys = torch.empty_like(mask, dtype=torch.int64)
            tables = (keys.new_empty(case.groups.num_classes + more, dtype=torch.int32) for more in (1, 0))
            host.channel_mask(keys, *tables, max(case.groups.sizes), torch.float32)  # as `mc_loss` draws it
    return launches


def _distinct(target: str, cases: list[Variant]) -> dict[tuple[str, ...], list[Variant]]:
    """The cases by direction, kernel and the key under which Triton would keep the compiled kernel."""
    from triton import knobs

    alike: dict[tuple[str, ...], list[Variant]] = defaultdict(list)
    _pretend_to_run_on(target)
    for case in cases:
        for direction, launch in launches_of(case).items():

            def instead_of_compiling(*, key: Any, fn: Any, **_: Any) -> bool:
                alike[direction, fn.module, str(key)].append(case)  # noqa: B023, called right below
                return True

            launch.kernel.device_caches.clear()
            aligned = {
                name: gcd(number, 16)
                for name, number in launch.constants.items()
                if name.endswith("STRIDE") or name == "NUM_CHANNELS"
            }
            with patch.object(knobs.runtime, "jit_cache_hook", instead_of_compiling):
                launch.kernel.warmup(grid=launch.grid, **(launch.arguments | aligned))
    return alike


def _pretend_to_run_on(target: str) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    driver.set_active(  # type: ignore[arg-type]
        SimpleNamespace(
            get_current_device=lambda: target,  # Triton keeps what it compiled by device
            get_current_stream=lambda device: 0,
            get_current_target=lambda: GPUTarget(*TARGETS[target]),
        )
    )


def compiled(target: str, launch: _Launch, constants: dict[str, int] | None = None) -> tuple[Any, float]:
    """The compiled kernel of a launch, some constants replaced, and the seconds of compilation; in a worker."""
    _pretend_to_run_on(target)
    start = time.perf_counter()
    kernel = launch.kernel.warmup(grid=launch.grid, **(launch.arguments | (constants or {})))
    return kernel, time.perf_counter() - start


def _report(
    target: str, case: Variant, launch: _Launch, constants: dict[str, int], kernel: Any, seconds: float
) -> Report:
    if "amdgcn" in kernel.asm:
        code = kernel.asm["amdgcn"]
        numbers = {key: int(number) for key, number in re.findall(r"^\s*(?:- )?\.(\w+):\s+(\d+)$", code, re.MULTILINE)}
        registers, stack = numbers["vgpr_count"], numbers["private_segment_fixed_size"]
        spills, scalar_spills = numbers["vgpr_spill_count"], numbers["sgpr_spill_count"]
    else:
        code = kernel.asm["ptx"]
        usage = _on_cubin(kernel.asm["cubin"], "cuobjdump", "--dump-resource-usage")
        numbers = {key: int(number) for key, number in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
        registers, stack = numbers["REG"], numbers["STACK"] + numbers["LOCAL"]
        spills = scalar_spills = 0
    maps, others = accesses(kernel.asm["ttgir"], code, kernel.metadata.num_warps * TARGETS[target][2])
    module = launch.kernel.module.rsplit(".", 1)[-1]
    return Report(
        target,
        f"{module}.{launch.kernel.fn.__name__.removesuffix('_kernel')}",
        launch.constants | constants,
        (case,),
        registers,
        stack,
        spills,
        scalar_spills,
        kernel.metadata.shared,
        maps,
        others,
        seconds,
    )


def _on_cubin(cubin: bytes, tool: str, *options: str) -> str:
    """The output of a tool that comes with Triton, about machine code."""
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool, *options, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
