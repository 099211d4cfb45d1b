"""Stage 1: the environment, and one step of each kernel family against the oracle."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch

from mcl_triton import ChannelGroups, sample_channel_mask

from .. import results
from .launches import STEPS, Step
from .stage import Part, Setup

PACKAGES = ("torch", "triton", "torchvision", "numpy", "pytest", "pytest-xdist", "hypothesis", "timm", "lightning")
TOOLS = ("nvidia-smi", "compute-sanitizer", "ncu", "ptxas", "git")
MASKS = {
    "10 and 11 channels": ChannelGroups.split(2048, 200),
    "1 to 5 channels": ChannelGroups([2, 5, 1, 3, 2, 2]),
    "600 channels": ChannelGroups([600, 1, 1]),
}


def parts(setup: Setup) -> list[Part]:
    """What is here, the masks, and each small step."""
    return [
        Part("versions", lambda: versions(setup)),
        *(Part(f"step: {name}", lambda step=step: compare(step, setup)) for name, step in STEPS.items()),  # type: ignore[misc]
        *(Part(f"mask: {name}", lambda groups=groups: masks(groups, setup)) for name, groups in MASKS.items()),  # type: ignore[misc]
    ]


def versions(setup: Setup) -> str:
    """Print versions, tools and what the GPU says of itself."""
    print(
        f"{platform.platform()}, {os.cpu_count()} cores; {results.versions()}; commit {results.run_facts()['commit']}"
    )
    for package in PACKAGES:
        try:
            print(f"{package} {version(package)}")
        except PackageNotFoundError:
            print(f"{package}: not installed")
    for tool in TOOLS:
        print(f"{tool}: {shutil.which(tool) or 'not found'}")
    if shutil.which("nvidia-smi"):
        facts = "name,driver_version,memory.total,clocks.sm,clocks.mem,temperature.gpu,power.draw"
        subprocess.run(["nvidia-smi", f"--query-gpu={facts}", "--format=csv"], check=False)
    if not setup.is_gpu:
        return "no GPU: small cases and Triton's interpreter stand in"
    properties = torch.cuda.get_device_properties(setup.device)
    print(properties)
    return (
        f"{properties.name}, {properties.multi_processor_count} SMs, {properties.L2_cache_size / 2**20:g} MiB of L2 "
        f"cache, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    )


def compare(step: Step, setup: Setup) -> str:
    """Loss and gradient of a step beside the oracle's; what the kernels leave unwritten is NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills empty tensors with NaN
    try:
        mistake = step.mistake(setup.device)
    finally:
        torch.use_deterministic_algorithms(False)
    if mistake is not None:
        raise AssertionError(mistake)
    return f"loss and gradient are the oracle's ({step.case})"


def masks(groups: ChannelGroups, setup: Setup) -> str:
    """The mask of the kernel beside the one of plain PyTorch from the same random numbers, and how many it drops."""
    drawn = [
        sample_channel_mask(
            groups,
            batch_size=2,
            generator=torch.Generator(setup.device).manual_seed(1),
            device=setup.device,
            backend=backend,
        ).cpu()
        for backend in ("triton", "eager")
    ]
    if not torch.equal(*drawn):
        raise AssertionError(f"{int((drawn[0] != drawn[1]).sum())} of {drawn[0].numel()} channels differ")
    for own, size in zip(drawn[0].split(list(groups.sizes), dim=1), groups.sizes, strict=True):
        if not (own.sum(dim=1) == size - size // 2).all():
            raise AssertionError(f"a class of {size} channels must keep {size - size // 2}; it keeps {own.sum(dim=1)}")
    return "both masks are those of plain PyTorch"
