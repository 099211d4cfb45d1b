"""Launching a compiled kernel again: the same kernel with the same arguments as through Triton, or through Triton.

A process of its own compiles for a GPU; a driver that does nothing stands in for NVIDIA's.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from bench.measure import stub_driver

ROOT = Path(__file__).parents[2]

COMMON = """
import sys, tempfile
from pathlib import Path
from bench.measure import stub_driver
library = stub_driver.install(Path(tempfile.mkdtemp()))

import torch, triton
import triton.language as tl
from triton import knobs
from triton.backends.nvidia.driver import CudaLauncher
from triton.runtime.jit import JITFunction
from mcl_triton.kernels import shortcut
from mcl_triton.kernels.shortcut import Prepared

seen = []  # of each launch: whether Triton looked for the kernel, which it was, and its arguments
is_searching = False
run, launch = JITFunction.run, CudaLauncher.__call__

def searched(*args, **kwargs):
    global is_searching
    is_searching = True
    try:
        return run(*args, **kwargs)
    finally:
        is_searching = False

def launched(self, x, y, z, stream, function, metadata, *args):
    arguments = [of.data_ptr() if isinstance(of, torch.Tensor) else of for of in args[3:]]
    seen.append((is_searching, function, (x, y, z, stream, metadata), arguments))
    return launch(self, x, y, z, stream, function, metadata, *args)

JITFunction.run, CudaLauncher.__call__ = searched, launched

@triton.jit
def kernel(source, number, target, stride, factor: tl.float64, SIZE: tl.constexpr):
    index = tl.arange(0, SIZE)
    tl.store(target + index, tl.load(source + index * stride) * number * tl.full([], factor, tl.float32))

memory = torch.zeros(4096)

def go(number=48, stride=32, dtype=torch.float32, first=0, **options):
    if (number, stride, *options.items()) not in prepared:
        numbers = {"number": number, "stride": stride, "SIZE": 4, "num_warps": 1, "unknown": 5, **options}
        prepared[number, stride, *options.items()] = Prepared(kernel, 3, numbers)
    source = memory.view(dtype)[first:]
    again = prepared[number, stride, *options.items()]
    again(memory.device, {"factor": 2.5}, source=source, target=memory, other=memory)
    return seen[-1]

prepared = {}
"""

SAME_KERNEL_AND_ARGUMENTS = """
first, second = go(), go()
assert first[0] and not second[0]
assert first[1:] == second[1:], (first, second)
assert library.stub_launches() == 2
other = {
    "address": {"first": 1}, "16 bytes on": {"first": 4}, "dtype": {"dtype": torch.int32},
    "not divisible": {"number": 47}, "one": {"number": 1}, "64 bits": {"number": 1 << 40}, "stride": {"stride": 33},
    "constant": {"SIZE": 8}, "warps": {"num_warps": 2},
}
for name, change in other.items():
    through, again = go(**change), go(**change)
    assert not again[0], name
    assert through[1:] == again[1:], name
    assert (through[1] == first[1]) == (name == "16 bytes on"), name
    assert through[0] == (name != "16 bytes on"), name
assert go()[1] == first[1]
assert go(dtype=torch.float64)[1] != first[1]
"""

WHAT_LOOKS_ON = """
go(), go()
assert not go()[0]
hooked = []
hook = lambda metadata: hooked.append(1)
for chain in (knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook):
    chain.add(hook)
    assert go()[0]
    chain.remove(hook)
    assert not go()[0]
assert len(hooked) == 2
knobs.runtime.debug = True
assert go()[0]
knobs.runtime.debug = False
assert not go()[0]
kernel.add_pre_run_hook(lambda *args, **kwargs: None)
assert go()[0]
kernel.pre_run_hooks.clear()
shortcut.IS_KNOWN = False
prepared.clear()
assert go()[0] and go()[0]
"""

LOSS = """
import mcl_triton.checks, mcl_triton.loss
from mcl_triton import ChannelGroups, mc_loss
mcl_triton.loss.uses_kernels = lambda backend, device: True
mcl_triton.checks.values_are_readable = lambda: False

def step(features, weights, targets):
    del seen[:]
    features = features.detach().requires_grad_()
    mask = torch.ones(6)
    mc_loss(features, targets, ChannelGroups([2, 4]), mask=mask, weights=weights, label_smoothing=0.1).loss.backward()
    return [of[:3] for of in seen], [of[3] for of in seen]

base = torch.zeros(2, 6, 4, 4)
odd = torch.zeros(193)[1:].view(2, 6, 4, 4)
targets = torch.zeros(2, dtype=torch.long)
kernels = {}
for name, features, weights, y in [
    ("first", base, (1.0, 2.0), targets), ("other weights", base, (3.0, 0.5), targets),
    ("misaligned", odd, (1.0, 2.0), targets), ("targets of 32 bits", base, (1.0, 2.0), targets.int()),
]:
    (through, arguments), (again, same) = step(features, weights, y), step(features, weights, y)
    assert len(through) == len(again) == 3
    assert not any(searched for searched, *_ in again)
    assert [of[1:] for of in through] == [of[1:] for of in again]
    kernels[name] = [of[1] for of in again]
    floats = [[of for of in one if isinstance(of, float)] for one in same]
    assert floats[1] == [0.1, weights[1], weights[0], -weights[1]], floats
assert kernels["first"] == kernels["other weights"]
assert [one != other for one, other in zip(kernels["first"], kernels["misaligned"])] == [True, False, True]
assert [one != other for one, other in zip(kernels["first"], kernels["targets of 32 bits"])] == [False, True, False]
"""


@pytest.mark.skipif(not stub_driver.is_possible(), reason="needs a C compiler, and no NVIDIA driver")
@pytest.mark.parametrize("code", [SAME_KERNEL_AND_ARGUMENTS, WHAT_LOOKS_ON, LOSS], ids=["same", "looked at", "loss"])
def test_launching_again(code, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(COMMON + code)
    environment = {name: of for name, of in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
