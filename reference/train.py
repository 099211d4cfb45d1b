"""Training and validation: ``python -m reference.train --help``.

A run is a function of its settings: everything random in it follows from the seed and the step, see `batches`. So a
run that was interrupted and resumed ends in the same weights, bit for bit on a CPU, as one that was not.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from tqdm import tqdm

from mcl_triton import ChannelGroups, MCLoss

from . import checkpoint, faces
from .batches import batches_of_epoch, derived_seed
from .environment import environment
from .evaluate import evaluate
from .interrupt import deferred_interrupt
from .network import MCNetwork, small_extractor
from .settings import Settings, add_arguments, differences, from_arguments

Row = dict[str, float]
"""What is known after an epoch, by the names of the CSV file's columns."""

CHECKPOINT = "checkpoint.pt"


class DivergedError(ArithmeticError):
    """The loss is infinite or no number."""


def main(arguments: list[str] | None = None) -> int:
    """Train from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m reference.train",
        description="Train a small network on the ORL faces by cross-entropy and MC-Loss.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_arguments(parser)
    parser.add_argument("--folder", type=Path, default=Path("runs/train"), help="where checkpoint and metrics go")
    parser.add_argument(
        "--resume", type=Path, metavar="FOLDER", help="go on with the run in this folder, with the settings it has"
    )
    options = parser.parse_args(arguments)
    ignored = [name for name, value in vars(options).items() if name != "resume" and value != parser.get_default(name)]
    if options.resume and ignored:
        parser.error(f"--resume goes on with the run as it was set; it cannot take {', '.join(ignored)} as well.")
    folder = options.resume or options.folder
    if not options.resume and (folder / CHECKPOINT).exists():
        parser.error(f"{folder} holds a run: go on with it by --resume {folder}, or choose another --folder.")
    try:
        settings = saved_settings(folder) if options.resume else from_arguments(options)
        rows = train(build_network(settings), *load_data(settings), settings, folder, resume=bool(options.resume))
    except KeyboardInterrupt:
        print(f"\nstopped; go on by: python -m reference.train --resume {folder}", file=sys.stderr)
        return 130
    except (ValueError, FileNotFoundError, DivergedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"test accuracy {rows[-1]['test_accuracy']:.1%}; checkpoint and metrics are in {folder}")
    return 0


def load_data(settings: Settings) -> tuple[faces.Faces, faces.Faces]:
    """The training and the test set."""
    return faces.split(settings.training_photos, settings.seed)


def build_network(settings: Settings) -> MCNetwork:
    """The network for the faces, with the initial weights of the seed."""
    torch.manual_seed(derived_seed(settings.seed, "weights"))
    groups = ChannelGroups.uniform(faces.NUM_PEOPLE, settings.channels_per_class)
    loss = MCLoss(groups, weights=settings.weights) if any(settings.weights) else None
    return MCNetwork(small_extractor(groups.num_channels), groups, loss)


def saved_settings(folder: Path) -> Settings:
    """The settings of the run in ``folder``."""
    return Settings(**checkpoint.load(folder / CHECKPOINT)["settings"])


def train(
    network: MCNetwork,
    train_set: Dataset[Any],
    test_set: Dataset[Any],
    settings: Settings,
    folder: Path,
    *,
    resume: bool = False,
    progress: bool = True,
    on_epoch: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Train a network, validating after every epoch; seeds PyTorch's random numbers as it goes.

    Args:
        network: trained in place, on the device it is on.
        train_set: yields (image, class index); its random transforms draw PyTorch's random numbers.
        test_set: likewise, without random transforms.
        settings: of which the epochs, the batch size, the optimiser's, the threads and the seed are used here.
        folder: gets ``checkpoint.pt``, ``metrics.csv`` and ``metrics.json``, brought up to date after every epoch.
        resume: go on from the checkpoint in ``folder``, whose settings must be the same.
        progress: show a bar.
        on_epoch: called with each new row.

    Returns:
        One row an epoch, those before an interruption included.

    Raises:
        KeyboardInterrupt: after Ctrl-C, once the step is done and the checkpoint written.
        DivergedError: the loss is infinite or no number; the last checkpoint is from before that.
    """
    num_images = len(train_set)  # type: ignore[arg-type]
    steps_per_epoch = num_images // settings.batch_size
    if steps_per_epoch == 0:
        raise ValueError(
            f"batch_size must be at most the number of training images, {num_images}; got {settings.batch_size}."
        )
    run = Run(network, settings, steps_per_epoch)
    path = folder / CHECKPOINT
    if resume:
        run.load(path)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        run.save(path)  # so that from the first step on there is something to resume
    bar = tqdm(total=settings.epochs * steps_per_epoch, initial=run.step, unit="step", disable=not progress)
    with bar, _threads(settings.threads), deferred_interrupt() as is_interrupted:
        for epoch in range(len(run.rows), settings.epochs):
            done = run.step - epoch * steps_per_epoch
            for images, targets in batches_of_epoch(train_set, settings.batch_size, settings.seed, epoch, skip=done):
                run.train_batch(images, targets)
                bar.update()
                if is_interrupted():
                    run.save(path)
                    raise KeyboardInterrupt
            run.finish_epoch(test_set)
            write_metrics(folder, settings, run.rows)  # before the checkpoint: a run that ends here does it again
            run.save(path)
            bar.set_postfix_str(f"test accuracy {run.rows[-1]['test_accuracy']:.1%}")
            if on_epoch is not None:
                on_epoch(run.rows[-1])
            if is_interrupted():
                raise KeyboardInterrupt
    return run.rows


class Run:
    """A training run at some step: all that a checkpoint holds."""

    def __init__(self, network: MCNetwork, settings: Settings, steps_per_epoch: int) -> None:
        self.network = network
        self.settings = settings
        self.device = next(network.parameters()).device
        self.optimizer = SGD(
            network.parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        self.scheduler = LambdaLR(self.optimizer, lambda step: learning_rate_factor(settings, step / steps_per_epoch))
        self.step = 0
        self.rows: list[Row] = []  # one a finished epoch
        self.totals: Row = {}  # sums over the images of the epoch that is running

    def train_batch(self, images: Tensor, targets: Tensor) -> None:
        """One step of the optimiser."""
        started = time.perf_counter()
        images, targets = images.to(self.device), targets.to(self.device)
        torch.manual_seed(derived_seed(self.settings.seed, "step", self.step))  # for the masks of the MC-Loss
        self.network.train()
        logits, ce_loss, mc = self.network(images, targets)
        loss = ce_loss if mc is None else ce_loss + mc.loss
        value = loss.item()
        self._require_finite("training loss", value)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        self.step += 1
        self._add(
            images=len(images),
            loss=value * len(images),
            accuracy=(logits.argmax(dim=1) == targets).sum().item(),
            seconds=time.perf_counter() - started,
        )

    def finish_epoch(self, test_set: Dataset[Any]) -> None:
        """Validate, and add the epoch's row."""
        started = time.perf_counter()
        test = evaluate(self.network, test_set, self.settings.batch_size)
        self._require_finite("test cross-entropy", test["cross_entropy"])
        images = self.totals["images"]
        self.rows.append(
            {
                "epoch": len(self.rows) + 1,
                "step": self.step,
                "train_loss": self.totals["loss"] / images,
                "train_accuracy": self.totals["accuracy"] / images,
                **{f"test_{name}": value for name, value in test.items()},
                "seconds": self.totals["seconds"] + time.perf_counter() - started,
            }
        )
        self.totals = {}

    def save(self, path: Path) -> None:
        """Write the checkpoint."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        position = {"step": self.step, "rows": self.rows, "totals": self.totals}
        checkpoint.save(path, {"settings": asdict(self.settings), **position, **parts})

    def load(self, path: Path) -> None:
        """Go back to a checkpoint of a run with the same settings."""
        state = checkpoint.load(path)
        if changed := differences(Settings(**state["settings"]), self.settings):
            raise ValueError(f"{path} and this run must have the same settings; they differ: {', '.join(changed)}.")
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.step, self.rows, self.totals = state["step"], state["rows"], state["totals"]

    def _parts(self) -> dict[str, Any]:
        return {"network": self.network, "optimizer": self.optimizer, "scheduler": self.scheduler}

    def _add(self, **values: float) -> None:
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0.0) + value

    def _require_finite(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise DivergedError(
                f"the {name} is {value} at step {self.step}, epoch {len(self.rows) + 1}, with learning rate "
                f"{self.scheduler.get_last_lr()[0]:.3g}. Lower learning_rate or the weights of the MC-Loss, and look "
                "for images that are no numbers."
            )


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Sums on the CPU depend on the number of threads in their last bits, so a run has its own."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def learning_rate_factor(settings: Settings, epoch: float) -> float:
    """What the learning rate is multiplied by after ``epoch`` epochs, which may be in the middle of one."""
    if settings.milestones:
        return float(0.1 ** sum(milestone <= epoch for milestone in settings.milestones))
    return 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs))


def write_metrics(folder: Path, settings: Settings, rows: list[Row]) -> None:
    """``metrics.csv``, a row an epoch, and ``metrics.json``, the same with the settings and what it ran on."""
    with open(folder / "metrics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    content = {"settings": asdict(settings), "environment": environment(), "epochs": rows}
    (folder / "metrics.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
