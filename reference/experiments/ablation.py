"""What each part of the MC-Loss does to a network: ``python -m reference ablation --help``.

Runs that are finished are not trained again, and one that was stopped goes on where it was: to add seeds, repeat the
command with all of them; to spread the runs over several GPUs, give each some seeds, and in the end all to one command.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from ..training.build import load_data
from ..training.distributed import choose_device
from ..training.environment import usable_cores
from ..training.recipes import load_recipe, recipe_option
from ..training.settings import Settings, add_arguments, drop_from_text, from_arguments
from ..training.trainer import DivergedError
from .parallel_runs import of_run, train_several
from .plan import Drop, Plan, run_name
from .results import Results, read, write
from .table import table

DROPS: tuple[Drop, ...] = (0, 0.25, "half", 0.75)
CHANNELS = (2, 3, 4, 6)


def main(arguments: list[str] | None = None) -> int:
    """Train, print the table and draw the figure; returns the exit status."""
    started = time.perf_counter()
    chooser = recipe_option()
    chosen, _ = chooser.parse_known_args(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m reference ablation",
        description="Train by cross-entropy alone, with each component of the MC-Loss and with both, with and without "
        "masks, and over drop and ξ, from the same seeds; by default on the ORL faces.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,  # the recipe is looked for by its full name
        parents=[chooser],
    )
    try:
        recipe = load_recipe(chosen.recipe) if chosen.recipe else Settings()
    except (ValueError, OSError) as error:
        parser.error(str(error))
    add_arguments(parser, recipe, only=tuple(setting.name for setting in fields(Settings) if setting.name != "seed"))
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], metavar="SEED", help="each is a run of every variant"
    )
    parser.add_argument(
        "--over-drop",
        type=drop_from_text,
        nargs="*",
        default=argparse.SUPPRESS,  # depends on ξ
        metavar="DROP",
        help=f"values to compare (default: of {_in_words(DROPS)} those that mask a channel where they are not 0)",
    )
    parser.add_argument(
        "--over-channels-per-class",
        type=int,
        nargs="*",
        default=argparse.SUPPRESS,  # likewise
        metavar="ξ",
        help=f"values to compare (default: {_in_words(CHANNELS)}, where ξ can be chosen)",
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/ablation"), help="where everything goes")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="where the picture goes, if elsewhere")
    parser.add_argument(
        "--redraw",
        type=Path,
        metavar="FILE",
        help="train nothing: table and picture of the results.json of another time",
    )
    parser.add_argument(
        "--processes",
        type=int,
        help="runs at the same time; by default one, or on CPUs as many as there are cores for the threads of each",
    )
    parser.add_argument("--device", default="auto", help="such as cpu or cuda:1; auto is a GPU where there is one")
    parser.add_argument("--workers", type=int, default=0, help="processes that read images ahead, for each run")
    options = parser.parse_args(arguments)
    try:
        if options.redraw:
            results = read(options.redraw)
        else:
            plan = _plan(options, parser)
            results = run(plan, options.folder, options.processes, options.device, options.workers)
            write(options.folder / "results.json", results)
        print(table(results))
        picture = (options.figures or options.folder) / "ablation.png"
        from .figure import draw_ablation  # here, so that the processes that train do not load matplotlib

        draw_ablation(results, picture)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on.", file=sys.stderr)
        return 130
    except (ValueError, OSError, DivergedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\npicture: {picture}")
    if not options.redraw:
        print(f"numbers: {options.folder / 'results.json'}, {options.folder / 'results.csv'}")
        print(f"{len(results.rows)} runs; {time.perf_counter() - started:.0f} seconds in all")
    return 0


def run(plan: Plan, folder: Path, processes: int | None = None, device: str = "auto", workers: int = 0) -> Results:
    """Train what is not yet trained.

    Args:
        plan: what to train.
        folder: gets a folder for each run.
        processes: runs at the same time; None for one, or on CPUs as many as there are cores for.
        device: see `choose_device`.
        workers: processes that read images ahead, for each run.
    """
    on_cpu = choose_device(device).type == "cpu"
    if processes is None:
        processes = max(1, usable_cores() // plan.base.threads) if on_cpu and plan.base.threads else 1
    train_set, test_set = load_data(plan.base)
    jobs = {settings: (settings, folder / run_name(settings)) for settings in plan.settings()}
    rows = train_several(jobs, processes, resume=True, device=device, workers=workers)
    return Results(
        plan,
        _trained_on([run_folder for _, run_folder in jobs.values()]),
        (len(train_set), len(test_set)),
        {settings: of_run(epochs) for settings, epochs in rows.items()},
    )


def _trained_on(folders: list[Path]) -> dict[str, str]:
    """What the runs were trained on, which need not be the machine that collects them."""
    told = [json.loads((folder / "metrics.json").read_text())["environment"] for folder in folders]
    return {name: " and ".join(dict.fromkeys(str(one[name]) for one in told)) for name in told[0]}


def _plan(options: argparse.Namespace, parser: argparse.ArgumentParser) -> Plan:
    try:
        if options.processes is not None and options.processes < 1:
            raise ValueError(f"processes must be at least 1; got {options.processes}.")
        base = from_arguments(options)
        channels = getattr(options, "over_channels_per_class", CHANNELS if base.channels_per_class else ())
        drops = getattr(options, "over_drop", drops_for(base.channels_per_class))
        return Plan(base, tuple(options.seeds), tuple(channels), tuple(drops))
    except ValueError as error:
        parser.error(str(error))


def drops_for(channels_per_class: int) -> list[Drop]:
    """Of `DROPS` 0 and what masks any of ξ channels; of a backbone's own, with ξ = 0, a class can have but 2."""
    fewest = channels_per_class or 2
    return [drop for drop in DROPS if drop == 0 or (0.5 if drop == "half" else float(drop)) * fewest >= 1]


def _in_words(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


if __name__ == "__main__":
    sys.exit(main())
