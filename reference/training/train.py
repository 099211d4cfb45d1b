"""Training, with evaluations on the test images: ``python -m reference train --help``.

A run is a function of its settings: everything random in it follows from the seed and the step, see `batches`. So a
run that was interrupted and resumed ends in the same weights, bit for bit on a CPU, as one that was not.

On several GPUs: ``torchrun --standalone --nproc-per-node 4 -m reference train ...``. The batch is then divided among
the processes, which mask the same channels; without batch norm they get the weights that one process gets, up to
rounding. With it, on GPUs, statistics are those of all processes (SyncBatchNorm), but of one part at a time where
``accumulation`` cuts the batch in parts; on CPUs they are those of each process's own images.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from . import checkpoint, distributed
from .build import build_network, load_data
from .logs import tensorboard
from .recipes import describe_recipes, load_recipe, recipe_option
from .run_folder import BEST, CHECKPOINT
from .settings import Settings, add_arguments, from_arguments
from .trainer import DivergedError, train

_ALSO_ON_RESUME = ("resume", "data", "device", "workers", "tensorboard")
_NOT_GIVEN = object()


def main(arguments: list[str] | None = None) -> int:
    """Train from the command line; returns the exit status."""
    chooser = recipe_option()
    chooser.add_argument("--list-recipes", action="store_true", help="print the names of the recipes and end")
    chosen, _ = chooser.parse_known_args(arguments)
    if chosen.list_recipes:
        print(describe_recipes())
        return 0
    parser = argparse.ArgumentParser(
        prog="python -m reference train",
        description="Train a network by cross-entropy and MC-Loss; without a recipe, a small one on typefaces.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        parents=[chooser],
        allow_abbrev=False,  # the chooser, which is asked first, would not know a shortened --recipe
    )
    try:
        recipe = load_recipe(chosen.recipe) if chosen.recipe else Settings()
    except (ValueError, OSError) as error:
        parser.error(str(error))
    add_arguments(parser, recipe)
    parser.add_argument("--folder", type=Path, default=Path("runs/train"), help="where checkpoints and metrics go")
    parser.add_argument(
        "--resume", type=Path, metavar="FOLDER", help="go on with the run in this folder, with the settings it has"
    )
    parser.add_argument("--device", default="auto", help="such as cpu or cuda:1; auto is a GPU where there is one")
    parser.add_argument("--workers", type=int, default=0, help="processes that read images ahead, for each that trains")
    parser.add_argument("--tensorboard", action="store_true", help="write events for TensorBoard into the folder")
    options = parser.parse_args(arguments)
    # Parsed once more, without defaults: also an option that is given its default would be ignored.
    given = vars(parser.parse_args(arguments, argparse.Namespace(**dict.fromkeys(vars(options), _NOT_GIVEN))))
    ignored = [name for name, value in given.items() if value is not _NOT_GIVEN and name not in _ALSO_ON_RESUME]
    if options.resume and ignored:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in ignored)
        parser.error(f"--resume goes on with the run as it was set; it cannot take {names} as well.")
    folder = options.resume or options.folder
    if folder.is_file():
        parser.error(f"{'--resume' if options.resume else '--folder'} must be a folder; got the file {folder}.")
    if not options.resume and (folder / CHECKPOINT).exists():
        parser.error(f"{folder} holds a run: go on with it by --resume {folder}, or choose another --folder.")
    try:
        _train(options, folder)
    except KeyboardInterrupt:
        go_on = f"; go on by: python -m reference train --resume {folder}" if (folder / CHECKPOINT).exists() else ""
        print(f"\nstopped{go_on}", file=sys.stderr)
        return 130
    except (ValueError, OSError, DivergedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _train(options: argparse.Namespace, folder: Path) -> None:
    """Train as the options say, in one process or in this one of several."""
    if options.resume:
        settings = saved_settings(folder)
        settings = replace(settings, data=options.data or settings.data)
    else:
        settings = from_arguments(options)
    device = distributed.choose_device(options.device)
    with distributed.joined(device):
        train_set, test_set = load_data(settings)
        # A run that goes on has its weights already.
        network = build_network(
            replace(settings, backbone_weights="") if options.resume else settings, len(train_set.classes)
        )
        rows = train(
            network.to(device),
            train_set,
            test_set,
            settings,
            folder,
            resume=bool(options.resume),
            workers=options.workers,
            on_epoch=tensorboard(folder) if options.tensorboard and distributed.rank() == 0 else None,
        )
        if distributed.rank() == 0:
            print(f"test accuracy {rows[-1]['test_accuracy']:.1%}; checkpoint and metrics are in {folder}")
            best = max(rows, key=lambda row: row["test_accuracy"])
            print(
                f"highest {best['test_accuracy']:.1%} after epoch {best['epoch']:.0f}, kept in {folder / BEST}; it was "
                "chosen on the test images, so it is optimistic"
            )


def saved_settings(folder: Path) -> Settings:
    """The settings of the run in ``folder``."""
    return checkpoint.load(folder / CHECKPOINT).settings


if __name__ == "__main__":
    sys.exit(main())
