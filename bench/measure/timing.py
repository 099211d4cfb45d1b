"""Time a call: on the host's clock, and on a GPU also between events and replayed from a CUDA graph."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..cases import Case
from ..providers import Inputs, Loss

MODES = ("forward", "backward", "both")

Clock = Callable[[int], float]
"""Turn number -> seconds that the call takes."""


@dataclass(frozen=True)
class Call:
    """A call to time, and its preparation, which is not timed.

    Attributes:
        run: the call.
        prepare: makes the argument of the call from one of the rotated inputs; None where the inputs are the argument.
    """

    run: Callable[[Any], object]
    prepare: Callable[[Inputs], Any] | None = None

    def prepared(self, inputs: Inputs) -> Any:
        """The argument of the call."""
        return inputs if self.prepare is None else self.prepare(inputs)


def call_of(loss: Loss, mode: str) -> Call:
    """The call of a loss for a mode: forward, backward alone, or both."""
    if mode == "forward":
        return Call(lambda inputs: inputs.forward(loss))
    if mode == "backward":
        return Call(lambda forward: torch.autograd.grad(*forward), prepare=lambda inputs: inputs.forward(loss))
    return Call(lambda inputs: inputs.step(loss))


def copy_call() -> Call:
    """A copy of the features into allocated memory: what the device can do."""
    # The target is a clone, since the system provides memory at the first write.
    return Call(lambda pair: pair[0].copy_(pair[1]), lambda inputs: (inputs.features.clone(), inputs.features))


def rotation(case: Case, device: torch.device) -> int:
    """Number of inputs that take turns, so that a GPU's second-level cache never holds the next one; 1 on a CPU.

    512 at most: features of less than a 256th of the cache stay in it. On a CPU the caches hold the features in
    training too, since the network's last layer has just written them.
    """
    if device.type != "cuda":
        return 1
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return min(512, 1 + math.ceil(2 * cache / case.nbytes))


def clocks(call: Call, inputs: Sequence[Inputs], device: torch.device, warm_up: int, name: str) -> dict[str, Clock]:
    """The ways to time a call, by metric: "wall", and on a GPU "host", "operator" and "kernel".

    Args:
        call: the call, warmed up here. One that waits for the device has no "kernel", since no CUDA graph can capture
            it.
        inputs: on the device; they take turns.
        device: that of the inputs.
        warm_up: number of calls before.
        name: of the call, for messages.
    """
    for turn in range(warm_up):
        call.run(call.prepared(inputs[turn % len(inputs)]))
    if device.type != "cuda":
        return {"wall": _wall(call, inputs, _nothing)}
    found = {
        "wall": _wall(call, inputs, torch.cuda.synchronize),
        "host": _until_it_returns(call, inputs),
        "operator": _between_events(call, inputs),
    }
    try:
        _require_no_waiting(call, inputs[0])
        found["kernel"] = _replayed(call, inputs)
    except RuntimeError as error:
        print(f"  {name} cannot be captured in a CUDA graph: {str(error).splitlines()[0]}")
    return found


def _require_no_waiting(call: Call, inputs: Inputs) -> None:
    """Raise RuntimeError for a call that waits for the device: its capture would leave PyTorch's memory in disorder."""
    prepared = call.prepared(inputs)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call.run(prepared)
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _nothing() -> None:
    pass


def _wall(call: Call, inputs: Sequence[Inputs], wait: Callable[[], None]) -> Clock:
    """Time from the call until the device is done."""

    def seconds(turn: int) -> float:
        prepared = call.prepared(inputs[turn % len(inputs)])
        wait()
        start = time.perf_counter()
        result = call.run(prepared)  # kept: freeing the memory of the result is not part of the call
        wait()
        end = time.perf_counter()
        del result
        return end - start

    return seconds


def _until_it_returns(call: Call, inputs: Sequence[Inputs]) -> Clock:
    """On the host's clock, while the device still computes."""

    def seconds(turn: int) -> float:
        prepared = call.prepared(inputs[turn % len(inputs)])
        torch.cuda.synchronize()
        start = time.perf_counter()
        result = call.run(prepared)
        end = time.perf_counter()
        torch.cuda.synchronize()
        del result
        return end - start

    return seconds


def _between_events(call: Call, inputs: Sequence[Inputs]) -> Clock:
    """Time from before the first kernel to after the last one, gaps included, on the GPU's clock."""

    def seconds(turn: int) -> float:
        prepared = call.prepared(inputs[turn % len(inputs)])
        torch.cuda.synchronize()
        return _seconds_between_events(lambda: call.run(prepared))

    return seconds


def _replayed(call: Call, inputs: Sequence[Inputs]) -> Clock:
    """Time per call of a CUDA graph that makes the call for all rotated inputs in a row, on the GPU's clock."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call.run(call.prepared(inputs[0]))
    torch.cuda.current_stream().wait_stream(stream)
    # The preparation is captured as well: its memory belongs to the graphs, and the call may overwrite it.
    before, graph, memory = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    prepared: Sequence[Any] = inputs
    if call.prepare is not None:
        with torch.cuda.graph(before, pool=memory, stream=stream):  # backward runs on the stream that forward ran on
            prepared = [call.prepare(each) for each in inputs]
    with torch.cuda.graph(graph, pool=memory, stream=stream):
        results = [call.run(each) for each in prepared]  # kept, so that each is written to memory of its own
    del results

    def seconds(turn: int) -> float:
        graph.replay()  # not timed: while it runs, the host queues the rest
        if call.prepare is not None:
            before.replay()
        return _seconds_between_events(graph.replay) / len(inputs)

    return seconds


def _seconds_between_events(run: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    result = run()
    end.record()
    torch.cuda.synchronize()
    del result
    return start.elapsed_time(end) / 1e3
