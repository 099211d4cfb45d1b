"""The comparison: time and memory measured here, what can be counted without a GPU, and the figures of both."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

COMMANDS = {
    "run": ("measure.compare", "time and memory against all others, on this machine"),
    "static": ("count.static", "bytes, launches, registers and rooflines, without a GPU"),
    "plot": ("report.plot", "draw every figure from the results"),
    "drawings": ("report.diagrams", "draw what the kernels do, from the rules that launch them"),
    "page": ("report.tables", "fill the tables of the pages from the results"),
    "compiled": ("count.compiled", "what the compiler makes of each kernel, in detail"),
    "traffic": ("count.traffic", "what the kernels ask of memory, in detail"),
    "launches": ("count.launches", "the kernels that a step launches, by name"),
    "blocks": ("measure.blocks", "what the size of the CPU path's blocks costs and gains"),
    "recipes": ("measure.recipes", "what a training step by each recipe costs"),
    "profile": ("measure.profile", "where the CPU path's time goes"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (path, summary) in COMMANDS.items():
        module = import_module(f".{path}", __package__)
        command = commands.add_parser(
            name,
            help=summary,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(main=module.main)
    options = parser.parse_args(arguments)
    return options.main(options) or 0


if __name__ == "__main__":
    sys.exit(main())
