"""What `torch.compile` makes of a loss for a GPU, without one: the kernels that Inductor generates, and their bytes.

The loss is traced on the CPU, as far as Inductor's front end goes. Its two graphs are then moved to a CUDA device that
there is none of, and Inductor generates code for an H100, which nobody compiles or runs. Bytes are Inductor's own
count: each buffer that a kernel reads or writes, once. This reaches into parts of PyTorch that are not public.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule

from mcl_triton import loss as loss_module

from ..cases import Case
from ..providers import Loss
from .launches import Launch, Step

DEVICE = "H100 (Inductor's code, not run)"
_CUDA = torch.device("cuda", 0)
_H100 = SimpleNamespace(  # of what `torch.cuda.get_device_properties` tells, what Inductor asks for
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
_GIGABYTES_A_SECOND = 3350.0


def compiled_step(loss: Loss, case: Case) -> Step:
    """What a step of a compiled loss launches, mask given, and what that reads and writes.

    Our own kernels are the launches "channel_pool" and "channel_pool_backward". In this process TRITON_INTERPRET must
    not be set.
    """
    features = case.empty().requires_grad_()
    targets, mask = torch.zeros(case.batch, dtype=torch.long), torch.ones(case.groups.num_channels)
    with patch.object(loss_module, "uses_kernels", lambda backend, device: backend == "triton"):
        forward, backward = graphs(lambda features: loss(features, targets, mask, case.groups), features)
    return Step(generated(forward), generated(backward))


def graphs(function: Callable[[Tensor], Tensor], argument: Tensor) -> list[GraphModule]:
    """What Inductor's front end makes of a function and of its gradient; nothing is computed."""
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


def generated(graph: GraphModule) -> list[Launch]:
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
    launches: list[Launch] = []

    class Generated(Exception):
        pass

    def generate(lowering: Any) -> None:
        """In place of generating, compiling and loading a module."""
        lowering.codegen()
        for node, words in lowering.count_bytes()[1]:
            if name := _name(node):
                launches.append(Launch(name, 4 * words))
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


def _outputs(graph: GraphModule) -> tuple[Any, ...]:
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    return output.args[0]


def _empty(like: Tensor, device: torch.device | str) -> Tensor:
    return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=device)


def _name(node: Any) -> str:
    """What a scheduled node launches; nothing for views, and for results that a called kernel returns."""
    from torch._inductor import ir, scheduler

    if isinstance(node, scheduler.NopKernelSchedulerNode) or isinstance(node.node, ir.MultiOutput):
        return ""
    called = getattr(node.node, "op_overload", None) if node.is_extern() else None
    return called.overloadpacket.__name__ if called is not None else node.get_name()


@contextmanager
def _an_h100() -> Iterator[None]:
    """Pretend that there is one, as far as Inductor looks."""
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor import scheduler, utils
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
        yield
