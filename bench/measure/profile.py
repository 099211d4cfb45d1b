"""Where the time of our step goes on this CPU, operator by operator: `python -m bench profile`."""

from __future__ import annotations

import argparse

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiled

from reference.training.environment import usable_cores

from .. import results
from ..cases import chosen, line_of
from ..providers import Inputs, ours_eager
from .compare import device_name, positive, quick_cases


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", nargs="+", default=[""], help="only cases whose line contains one of these")
    parser.add_argument("--threads", type=positive, default=usable_cores(), help="default: as many as cores")


def main(arguments: argparse.Namespace) -> None:
    cases = chosen(quick_cases(), arguments.cases)
    torch.set_num_threads(arguments.threads)
    print(f"{device_name(torch.device('cpu'))}; {results.versions()}; 10 steps")
    for case in cases:
        inputs = Inputs.of(case)
        for _ in range(3):
            inputs.step(ours_eager)
        with profiled(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(10):
                inputs.step(ours_eager)
        print(line_of(case))
        print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=40))
