"""Peak memory of a call."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler writes two lines for each use, and one about GPUs


def peak_bytes(run: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Peak bytes of ``run`` on a device: with its result, without the memory in use before.

    On a CPU it runs on one thread, since PyTorch's profiler sees no other. Of what is compared here only ours depends
    on the number of threads: each has a block of its own.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            result = run()
    finally:
        torch.set_num_threads(threads)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    if not events:
        raise RuntimeError("PyTorch's profiler recorded no allocation.")
    del result
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))
