"""The paper in practice: ``python -m reference COMMAND``."""

from __future__ import annotations

import os
import sys
from importlib import import_module

COMMANDS = {
    "train": ("training.train", "train a network on a data set, by a recipe or by settings"),
    "validate": ("training.validate", "measure a checkpoint on the test images"),
    "predict": ("training.predict", "print the most probable classes of images"),
    "explain": ("figures.explain", "draw where the channels of a class look in images"),
    "overlap-curve": ("figures.overlap_curve", "draw how the channels' overlap changes during training"),
    "ablation": ("experiments.ablation", "train without each part of the loss in turn, and compare"),
    "search": ("experiments.search", "pick settings for each line of the ablation, on other seeds"),
    "demo": ("experiments.demo", "train small networks with and without MC-Loss, and compare"),
    "regions": ("experiments.word_regions", "measure where channels look on words, and what blanking that costs"),
    "typefaces": ("datasets.typefaces", "list the fonts of the data set typefaces, with their licences"),
}
"""The module of each command, with a ``main(arguments)`` that returns the exit status, and a summary."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status. Only the command's own modules are imported."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print("usage: python -m reference COMMAND [--help] ...\n")
        print("\n".join(f"  {command:{width}}  {summary}" for command, (_, summary) in COMMANDS.items()))
        return 0
    if name not in COMMANDS:
        print(f"python -m reference: no command {name!r}; there are {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    # Threads that wait for each other on a CPU sleep, since spinning ones take the cores from the processes that read
    # images. OpenMP reads this when PyTorch is imported, which is now.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    return import_module(f".{COMMANDS[name][0]}", __package__).main(rest)


if __name__ == "__main__":
    sys.exit(main())
