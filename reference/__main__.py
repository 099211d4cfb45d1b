"""The paper in practice: ``python -m reference COMMAND``."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from .commands import COMMANDS, parse


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status. PyTorch is loaded only once the options are right."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print("usage: python -m reference COMMAND [--help] ...\n")
        for command, (options, _) in COMMANDS.items():
            print(f"  {command:{width}}  {(options.__doc__ or '').partition('.')[0]}")
        return 0
    if name not in COMMANDS:
        print(f"error: there is no command {name!r}, only {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    try:
        options = parse(name, rest)
    except (ValueError, TypeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # Threads that wait for each other on a CPU sleep, since spinning ones take the cores from the processes that read
    # images. OpenMP reads this when PyTorch is imported, which is now.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import_module(f".{COMMANDS[name][1]}", __package__).main(options)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as interrupt:
        print("\nstopped" + "".join(f"; {how}" for how in interrupt.args), file=sys.stderr)
        return 130
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
