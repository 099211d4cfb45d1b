"""The kernels that `torch.compile` generates from a loss for a GPU, without one: their bytes and instructions.

The loss is traced on the CPU, as far as Inductor's front end goes. Its two graphs are then moved to a CUDA device that
does not exist; Inductor generates code for an H100, and Triton compiles it. Bytes are Inductor's own count: each buffer
that a kernel reads or writes, once. Instructions are counted in machine code, as ours are. This reaches into parts of
PyTorch that are not public.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from math import prod
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule

from mcl_triton import loss as loss_module

from ..cases import Case
from ..providers import Loss
from .instructions import MachineCode
from .launches import CountedLaunch, Step

NEGLIGIBLE = 0.01  # kernels that move less than this part of the bytes of the largest are not compiled
_CUDA = torch.device("cuda", 0)
_H100 = SimpleNamespace(  # the part of `torch.cuda.get_device_properties` that Inductor reads
    name="NVIDIA H100",
    type="cuda",
    index=0,
    major=9,
    minor=0,
    multi_processor_count=132,
    total_memory=80 << 30,
    warp_size=32,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448,
    shared_memory_per_multiprocessor=233472,
    L2_cache_size=50 << 20,
    clock_rate=1980000,
    memory_clock_rate=2619000,
    memory_bus_width=5120,
    gcnArchName="",
)
_KERNELS = {  # which our operators launch
    "channel_mask": ("mask_kernel",),
    "channel_pool": ("forward_kernel",),
    "channel_pool_backward": ("backward_kernel",),
    "mc_loss": ("forward_kernel", "head_kernel"),
}
_GIGABYTES_A_SECOND = 3350.0


def compiled_step(loss: Loss, case: Case, instructions: bool = False) -> Step:
    """The launches of a step of a compiled loss, mask given, with their bytes, and their instructions if so wanted.

    Our own kernels count by their names; the bytes of all that an operator launches are those of its first kernel. In
    this process TRITON_INTERPRET must not be set.
    """
    features = case.empty().requires_grad_()
    targets, mask = torch.zeros(case.batch, dtype=torch.long), torch.ones(case.groups.num_channels)
    with patch.object(loss_module, "uses_kernels", lambda backend, device: backend == "triton"):
        forward, backward = graphs(lambda features: loss(features, targets, mask, case.groups), features)
    return Step(generated(forward, instructions), generated(backward, instructions))


def graphs(function: Callable[[Tensor], Tensor], argument: Tensor) -> list[GraphModule]:
    """The graphs of a function and of its gradient, from Inductor's front end; nothing is computed."""
    from torch._inductor import compile_fx, config

    found = []

    def keep(graph: GraphModule, inputs: object, **options: object) -> Any:
        found.append(graph)

        def run(arguments: list[object]) -> list[Tensor | None]:
            arguments.clear()
            return [None if node is None else _empty(node.meta["val"], "cpu") for node in _outputs(graph)]

        run._boxed_call = True  # type: ignore[attr-defined]
        return run

    def backend(graph: GraphModule, inputs: list[Tensor]) -> Any:
        return compile_fx.compile_fx(graph, inputs, inner_compile=keep)

    torch._dynamo.reset()
    with config.patch(compile_threads=1):
        result = torch.compile(function, backend=backend, fullgraph=True, dynamic=False)(argument)
        if result.requires_grad:
            torch.autograd.grad(result, argument, torch.empty_like(result))
    return found


def generated(graph: GraphModule, instructions: bool = False) -> list[CountedLaunch]:
    """The kernels that Inductor generates for a graph on an H100, and those that it calls, in order."""
    from torch._inductor import compile_fx, config
    from torch._inductor.graph import GraphLowering
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = deepcopy(graph)
    inputs = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
    for node in graph.graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": _CUDA}
    graph.recompile()
    launches: list[CountedLaunch] = []
    calls: list[int] = []  # the places among the launches of those generated

    class Generated(Exception):
        pass

    def generate(lowering: Any) -> None:
        """Stand in for generating, compiling and loading a module."""
        wrapper, _ = lowering.codegen()
        for node, words in lowering.count_bytes()[1]:
            if name := _name(node):
                if not node.is_extern():
                    calls.append(len(launches))
                first, *others = _KERNELS.get(name, (name,))
                launches.extend([CountedLaunch(first, 4 * words), *map(CountedLaunch, others)])
        if instructions:
            largest = max(launch.nbytes for launch in launches)
            for place, kernel in zip(calls, _Kernel.called_in(wrapper.value), strict=True):
                if launches[place].nbytes >= NEGLIGIBLE * largest:
                    launches[place] = launches[place]._replace(slots=kernel.slots())
        raise Generated

    with (
        _an_h100(),
        FakeTensorMode(allow_non_fake_inputs=True),
        torch.no_grad(),
        config.patch(compile_threads=1, fx_graph_cache=False, fx_graph_remote_cache=False),
        patch.object(GraphLowering, "compile_to_module", generate),
    ):
        fakes = [_empty(value, _CUDA) for value in inputs]
        try:
            compile_fx.compile_fx_inner(make_fx(graph)(*fakes), fakes)
        except Exception as error:  # which Inductor may have wrapped
            if not isinstance(error, Generated) and not isinstance(getattr(error, "inner_exception", None), Generated):
                raise
    return launches


class _Kernel(NamedTuple):
    """A kernel in the code that Inductor generates."""

    name: str
    source: str

    @staticmethod
    def called_in(code: str) -> list[_Kernel]:
        """The kernels that a generated module launches, in order."""
        sources = dict(re.findall(r"(\w+) = async_compile\.triton\('\w+', '''(.*?)'''", code, re.DOTALL))
        return [_Kernel(name, sources[name]) for name in re.findall(r"^\s+(\w+)\.run\(", code, re.MULTILINE)]

    def slots(self) -> int:
        """The instructions that its warps issue, with the cheapest of the configurations that Inductor would time."""
        from torch._inductor.codecache import PyCodeCache
        from torch._inductor.runtime.triton_heuristics import GridExpr

        tuner = getattr(PyCodeCache.load(self.source), self.name)
        tuner.inductor_meta["assert_indirect_indexing"] = False  # an assertion that fails leaves the kernel
        sizes = {
            name: int(size) for name, size in re.findall(r"^    (\w+)(?:: \S+)? = (\d+)$", self.source, re.MULTILINE)
        }
        found = []
        for config in tuner.configs:
            kernel = _compiled(tuner, config)
            programs = prod(GridExpr.from_meta(tuner.inductor_meta, config).eval_slow(sizes))
            issued = MachineCode(kernel.asm["ptx"]).issued(sizes | config.kwargs).total()
            found.append(issued * kernel.metadata.num_warps * programs)
        return min(found)


def _compiled(tuner: Any, config: Any) -> Any:
    """The kernel of Triton that Inductor's would launch."""
    import triton

    kernels, compile_kernel = [], triton.compile

    def keep(*arguments: Any, **options: Any) -> Any:
        kernels.append(compile_kernel(*arguments, **options))
        return kernels[-1]

    with patch.object(triton, "compile", keep):
        tuner._precompile_config(config)
    return kernels[-1]


def _outputs(graph: GraphModule) -> tuple[Any, ...]:
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    return output.args[0]


def _empty(like: Tensor, device: torch.device | str) -> Tensor:
    return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=device)


def _name(node: Any) -> str:
    """The name of the kernel that a scheduled node launches; "" for views, and for results of a called kernel."""
    from torch._inductor import ir, scheduler

    if isinstance(node, scheduler.NopKernelSchedulerNode) or isinstance(node.node, ir.MultiOutput):
        return ""
    called = getattr(node.node, "op_overload", None) if node.is_extern() else None
    return called.overloadpacket.__name__ if called is not None else node.get_name()


@contextmanager
def _an_h100() -> Iterator[None]:
    """Pretend that an H100 is present, as far as Inductor looks."""
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor import scheduler, utils
    from torch._inductor.runtime import triton_helpers
    from torch._subclasses import fake_tensor
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    active = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        get_current_device=lambda: 0,
        get_active_torch_device=lambda: _CUDA,
        is_active=lambda: True,
    )
    no_state = torch.empty(16, dtype=torch.uint8)
    of_cuda: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "is_initialized": lambda: False,
        "get_device_properties": lambda device=None: _H100,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_name": lambda device=None: _H100.name,
        "get_rng_state": lambda device=None: no_state,
        "set_rng_state": lambda state, device=None: None,
        "set_device": lambda device: None,
        "_exchange_device": lambda device: 0,
        "_maybe_exchange_device": lambda device: 0,
        "synchronize": lambda device=None: None,
    }
    of_interface: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_compute_capability": lambda device=None: 90,
        "get_device_properties": lambda device=None: _H100,
        "is_triton_capable": lambda device=None: True,
        "raise_if_triton_unavailable": lambda device=None: None,
    }
    of_worker = {name: of_interface[name] for name in ("get_device_properties", "current_device")}
    with ExitStack() as stack:
        for name, function in of_cuda.items():
            stack.enter_context(patch.object(torch.cuda, name, function))
        for where, functions in ((CudaInterface, of_interface), (CudaInterface.Worker, of_worker)):
            for name, function in functions.items():
                stack.enter_context(patch.object(where, name, staticmethod(function), create=True))
        for module in (utils, scheduler):
            stack.enter_context(patch.object(module, "get_gpu_dram_gbps", lambda: _GIGABYTES_A_SECOND))
        stack.enter_context(patch.object(scheduler, "has_triton", lambda *device: True))
        stack.enter_context(patch.object(fake_tensor, "init_gpu_context", lambda device: None))
        stack.enter_context(patch.object(driver, "_active", active))
        stack.enter_context(patch.object(triton_helpers, "set_driver_to_gpu", lambda: None))
        yield
