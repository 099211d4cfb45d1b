"""The comparison: time and memory measured here, what can be counted without a GPU, and the figures of both."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def positive(text: str) -> int:
    """A whole number of at least 1, for an option."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {number}.")
    return number


def run(parser: argparse.ArgumentParser) -> None:
    """The options of `bench run`."""
    parser.add_argument("--full", action="store_true", help="all real shapes, dtypes and layouts, and sweeps")
    parser.add_argument("--cases", nargs="+", default=[""], help="only cases whose line contains one of these")
    parser.add_argument(
        "--no-sweeps", action="store_true", help="with --full: leave out the growth with each dimension"
    )
    modes = ("forward", "backward", "both")
    parser.add_argument("--modes", nargs="+", choices=modes, default=list(modes), help="default: all of them")
    parser.add_argument("--turns", type=positive, help="measurements of each (default: 7 on a CPU, 50 on a GPU)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    parser.add_argument(
        "--threads", type=positive, nargs="+", help="on a CPU (default: as many as cores; with --full also 1)"
    )
    parser.add_argument(
        "--busy", action="store_true", help="while as many other processes spin as there are cores (for a CPU)"
    )
    parser.add_argument(
        "--compiled",
        action=argparse.BooleanOptionalAction,
        help="with torch.compile of each, which is slow (default: on a GPU only)",
    )
    parser.add_argument(
        "--provider",
        action="append",
        default=[],
        metavar="MODULE:FUNCTION",
        help="one of your own: (features, targets, mask, groups) -> 1.5·L_dis + 20·(1 − mean h/ξ); may be repeated",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/bench"),
        help="folder of the results, a file per device; newer results replace older ones (default: runs/bench)",
    )


def static(parser: argparse.ArgumentParser) -> None:
    """The options of `bench static`."""
    parser.add_argument("--cases", nargs="+", default=[""], help="only cases whose line contains one of these")
    parser.add_argument("--output", type=Path, help="file of the results (default: bench/results/static.csv)")
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument("--kernels", action="store_true", help="print what the compiler makes of each of our kernels")
    parts.add_argument("--traffic", action="store_true", help="print what our kernels ask of memory, and how it grows")
    parts.add_argument("--launches", action="store_true", help="print the kernels that a step launches, by name")


def report(parser: argparse.ArgumentParser) -> None:
    """The options of `bench report`."""
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of CSV files (default: bench/results)")
    parser.add_argument(
        "--output", type=Path, help="folder for the figures; the pages then stay as they are (default: docs/figures)"
    )


def gpu(parser: argparse.ArgumentParser) -> None:
    """The options of `bench gpu`."""
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--minutes", type=float, default=9.0, help="time for this call (default: 9)")
    parser.add_argument("--stages", nargs="+", metavar="STAGE", help="only these (default: all)")


def host(parser: argparse.ArgumentParser) -> None:
    """The options of `bench host`."""
    parser.add_argument("--turns", type=positive, default=30, help="measurements of each loss (default: 30)")
    parser.add_argument("--repeats", type=positive, default=50, help="steps per measurement (default: 50)")


COMMANDS: dict[str, tuple[str, str, Callable[[argparse.ArgumentParser], None]]] = {
    "run": (
        "measure.compare",
        "measure time and memory of the loss and of other implementations, on this machine",
        run,
    ),
    "static": ("count.static", "count bytes, launches and instructions, without a GPU", static),
    "report": ("report.pages", "draw the figures and fill the tables of the pages from the results", report),
    "gpu": ("gpu.command", "prove and measure everything on a GPU, in the minutes that there are", gpu),
    "host": ("measure.host", "measure the host time of a step, with a driver that does nothing", host),
}
"""By name: the module with a ``main(options)``, imported when the command runs; a summary; the options."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (module, summary, add_options) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        add_options(command)
        command.set_defaults(module=module)
    options = parser.parse_args(arguments)
    return import_module(f".{options.module}", __package__).main(options) or 0


if __name__ == "__main__":
    sys.exit(main())
