"""Cross-entropy with and without MC-Loss, on real faces, from the same seeds: ``python -m reference demo``."""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from ..datasets.faces import NUM_PEOPLE, PHOTOS_PER_PERSON, split
from ..figures.style import CROSS_ENTROPY, MC_LOSS
from ..training.checkpoint import Row, load_network
from ..training.environment import environment, usable_cores
from ..training.logs import without_nan
from ..training.run_folder import CHECKPOINT
from ..training.settings import Settings, add_arguments, from_arguments
from ..training.trainer import DivergedError
from .parallel_runs import of_run, train_several
from .statistics import mean_and_deviation

Runs = dict[str, dict[int, list[Row]]]
"""The rows of every run, by loss and seed."""

MEASURES = {
    # column of the metrics: heading, scale, format
    "test_accuracy": ("accuracy %", 100, ".1f"),
    "test_discriminality": ("L_dis", 1, ".2f"),
    "test_diversity": ("L_div", 1, ".2f"),
    "test_diversity_fraction": ("L_div / ξ", 1, ".2f"),
    "seconds": ("seconds", 1, ".0f"),
}

OPTIONS = (
    *("training_photos", "channels_per_class", "weights", "epochs", "batch_size"),
    *("learning_rate", "momentum", "weight_decay", "milestones", "threads"),
)
"""The settings that make sense for the faces."""

PICTURED_EVERY = 8  # people


def main(arguments: list[str] | None = None) -> int:
    """Train, compare and draw; returns the exit status."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser(
        prog="python -m reference demo",
        description="Train on the ORL faces by cross-entropy, with and without MC-Loss, and compare.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_arguments(parser, only=OPTIONS)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], metavar="SEED", help="each is a run of either loss"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"), help="where everything goes")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="where the figures go, if elsewhere")
    parser.add_argument("--processes", type=int, default=usable_cores(), help="runs at the same time")
    options = parser.parse_args(arguments)
    try:
        settings = from_arguments(options)
        if not any(settings.weights):
            raise ValueError("weights 0 0 leave no MC-Loss to compare cross-entropy with.")
        if len(set(options.seeds)) < len(options.seeds):
            raise ValueError(f"seeds must differ; got {options.seeds}.")
        if options.processes < 1:
            raise ValueError(f"processes must be at least 1; got {options.processes}.")
    except ValueError as error:
        parser.error(str(error))

    try:
        runs = train_all(settings, options.seeds, options.folder, options.processes)
        print(describe(settings, options.seeds))
        print(table(runs))
        write_results(options.folder, settings, runs)
        figures = draw(options.figures or options.folder, options.folder, settings, runs)
    except KeyboardInterrupt:
        print("\nstopped.", file=sys.stderr)
        return 130
    except (ValueError, OSError, DivergedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\nfigures:  {', '.join(map(str, figures))}")
    print(f"numbers:  {options.folder / 'results.csv'}, {options.folder / 'results.json'}")
    print(f"runs:     {options.folder}/*/, each with its checkpoint and its metrics")
    print(f"{time.perf_counter() - started:.0f} seconds in all")
    return 0


def run_folder(folder: Path, loss: str, seed: int) -> Path:
    """Where one run is written: for instance ``runs/demo/mc-loss-seed0``."""
    return folder / f"{'mc-loss' if loss == MC_LOSS else loss}-seed{seed}"


def train_all(settings: Settings, seeds: Sequence[int], folder: Path, processes: int) -> Runs:
    """Train with either loss from every seed, several runs at a time."""
    jobs = {
        (loss, seed): (replace(settings, weights=weights, seed=seed), run_folder(folder, loss, seed))
        for seed in seeds
        for loss, weights in ((CROSS_ENTROPY, (0.0, 0.0)), (MC_LOSS, settings.weights))
    }
    rows = train_several(jobs, processes, resume=True)
    return {loss: {seed: rows[loss, seed] for seed in seeds} for loss in (CROSS_ENTROPY, MC_LOSS)}


def describe(settings: Settings, seeds: Sequence[int]) -> str:
    """What was run on what."""
    on = environment()
    train_photos, test_photos = settings.training_photos, PHOTOS_PER_PERSON - settings.training_photos
    alpha, beta = settings.weights
    return (
        f"\n{on['cpu']}, {on['cores']} cores; Python {on['python']}, torch {on['torch']}\n"
        f"ORL faces of AT&T Laboratories Cambridge, {NUM_PEOPLE} people: {train_photos} photographs of each to train "
        f"on, {test_photos} to test\n"
        f"{settings.epochs} epochs; MC-Loss with α = {alpha:g}, β = {beta:g}, ξ = {settings.channels_per_class}; "
        f"seeds {' '.join(map(str, seeds))}\n"
    )


def table(runs: Runs) -> str:
    """Every run after its last epoch: mean and standard deviation over the seeds, and the paired difference."""
    differences = paired_differences(runs)
    accuracy = [row["test_accuracy"] for row in differences]
    higher, lower = sum(value > 0 for value in accuracy), sum(value < 0 for value in accuracy)
    return "\n".join(
        [
            "loss".ljust(25) + "".join(heading.rjust(15) for heading, _, _ in MEASURES.values()),
            *(loss.ljust(25) + _cells([of_run(rows) for rows in of.values()]) for loss, of in runs.items()),
            "difference, same seed".ljust(25) + _cells(differences, sign="+"),
            "",
            "Test images after the last epoch, no channel masked; ± is the standard deviation over the seeds.",
            f"Accuracy with MC-Loss is higher on {higher} of {len(accuracy)} seeds, lower on {lower}.",
        ]
    )


def paired_differences(runs: Runs) -> list[Row]:
    """For each seed, what the run with MC-Loss has more than the one without."""
    pairs = [(of_run(runs[CROSS_ENTROPY][seed]), of_run(runs[MC_LOSS][seed])) for seed in runs[MC_LOSS]]
    return [{name: with_mc[name] - without[name] for name in MEASURES} for without, with_mc in pairs]


def _cells(rows: list[Row], sign: str = "") -> str:
    return "".join(
        mean_and_deviation([scale * row[name] for row in rows], digits, sign).rjust(15)
        for name, (_, scale, digits) in MEASURES.items()
    )


def write_results(folder: Path, settings: Settings, runs: Runs) -> None:
    """``results.csv``, a line a run, and ``results.json``, the same with the settings and what it ran on."""
    results = [{"loss": loss, "seed": seed, **of_run(rows)} for loss, of in runs.items() for seed, rows in of.items()]
    with open(folder / "results.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, results[0])
        writer.writeheader()
        writer.writerows(results)
    content = {"environment": environment(), "settings": asdict(settings), "runs": list(map(without_nan, results))}
    (folder / "results.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def draw(figures: Path, folder: Path, settings: Settings, runs: Runs) -> list[Path]:
    """Both figures; the channels are those of the first seed, on the first test photograph of some people."""
    from ..figures import demo_figures  # here, so that the processes that train do not load matplotlib

    curves, channels = figures / "demo_curves.png", figures / "demo_channels.png"
    seed = next(iter(runs[MC_LOSS]))
    networks = {loss: load_network(run_folder(folder, loss, seed) / CHECKPOINT)[0] for loss in runs}
    demo_figures.draw_curves({loss: list(of.values()) for loss, of in runs.items()}, networks[MC_LOSS].groups, curves)

    _, test_set = split(settings.training_photos, seed)
    people = torch.arange(0, NUM_PEOPLE, PICTURED_EVERY)
    first_photos = [test_set.targets.index(person) for person in people.tolist()]
    note = f"The first test photograph of every {PICTURED_EVERY}th person, seed {seed}."
    demo_figures.draw_channels(networks, test_set.images[first_photos], people, note, channels)
    return [curves, channels]


if __name__ == "__main__":
    sys.exit(main())
