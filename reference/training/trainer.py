"""A training run at some step: all that a checkpoint holds, and how it goes on by a step or an epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD
from torch.utils.data import Dataset

from mcl_triton import sample_channel_mask

from ..model.base_networks import parameter_groups
from ..model.network import MCNetwork
from . import checkpoint, distributed
from .batches import batches, derived_seed
from .evaluate import evaluate
from .settings import Settings, differences

Row = dict[str, float]
"""What is known after an epoch, by the names of the CSV file's columns.

``seconds`` are those of the steps and of the evaluation; waiting for training images is not among them.
"""

Part = tuple[Tensor, Tensor]
"""Images and class indices (B,)."""


class DivergedError(ArithmeticError):
    """The loss is infinite or no number, or so are all scaled gradients."""


class Run:
    """The network, its optimiser and where they are; every process that trains has one.

    Args:
        network: trained in place, on the device it is on.
        settings: see `Settings`.
        num_images: of the training set.
        classes: their names, for the checkpoint.

    Raises:
        ValueError: the batch size does not fit the number of images or of processes.
    """

    def __init__(self, network: MCNetwork, settings: Settings, num_images: int, classes: Sequence[str]) -> None:
        self.steps_per_epoch = num_images // settings.batch_size
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"batch_size must be at most the number of training images, {num_images}; got {settings.batch_size}."
            )
        self.parts = settings.accumulation * distributed.size()
        if settings.batch_size % self.parts or settings.batch_size == self.parts:
            raise ValueError(
                f"batch_size must be a multiple of {self.parts}, which is the {distributed.size()} processes times "
                f"accumulation, {settings.accumulation}, and leave at least 2 images a part, for batch norm; got "
                f"{settings.batch_size}."
            )
        self.network = network
        self.settings = settings
        self.num_images = num_images
        self.classes = list(classes)
        self.device = next(network.parameters()).device
        self.wrapped, self.parallel = self._wrapped()
        rates = {"backbone": settings.learning_rate * settings.backbone_factor, "head": settings.learning_rate}
        groups = [{**group, "initial_lr": group["lr"]} for group in parameter_groups(network, **rates)]
        self.optimizer = SGD(
            groups, lr=settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.mixed_precision == "fp16")
        self.step = 0
        self.rows: list[Row] = []  # one a finished epoch
        self.totals: Row = {}  # sums over the images of the epoch that is running

    def steps(self, train_set: Dataset[Any], workers: int = 0) -> Iterator[list[Part]]:
        """This process's share of the batch of each step that is left, in parts."""
        first = distributed.rank() * self.settings.accumulation
        parts = batches(
            train_set,
            self.settings.batch_size,
            self.settings.seed,
            range(self.step, self.settings.epochs * self.steps_per_epoch),
            parts=self.parts,
            mine=range(first, first + self.settings.accumulation),
            workers=workers,
            pin_memory=self.device.type == "cuda",
        )
        while batch := list(islice(parts, self.settings.accumulation)):
            yield batch

    def train_step(self, batch: list[Part]) -> None:
        """One step of the optimiser; DivergedError, and no step, where the loss is no finite number."""
        started = time.perf_counter()
        self.network.train()
        torch.manual_seed(derived_seed(self.settings.seed, "step", self.step))
        mask = draw_mask(self.network, self.device)
        self._set_learning_rates()
        self.optimizer.zero_grad()
        measured = [self._add_gradients(part, mask, number) for number, part in enumerate(batch)]
        of_parts = [each.tolist() for each in measured]  # only now, as reading a number waits for the device
        sizes = [len(targets) for _, targets in batch]
        images, loss, correct = distributed.total(
            [
                sum(sizes),
                sum(size * mean_loss for size, (mean_loss, _) in zip(sizes, of_parts, strict=True)),
                sum(correct for _, correct in of_parts),
            ]
        )
        self._require_finite("training loss", loss / images)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self._add(images=images, loss=loss, correct=correct, seconds=time.perf_counter() - started)

    def _add_gradients(self, part: Part, mask: Tensor | None, number: int) -> Tensor:
        """Backward for one part of the batch; returns its mean loss and how many answers are right, (2,)."""
        parts = self.settings.accumulation
        images, targets = (tensor.to(self.device, non_blocking=True) for tensor in part)
        # What else draws random numbers, such as dropout, draws others for each part.
        torch.manual_seed(derived_seed(self.settings.seed, "step", self.step, distributed.rank() * parts + number))
        with self._gradients_shared(number == parts - 1):
            with self.autocast():
                logits, loss, mc = self.wrapped(images, targets, mask)
                if mc is not None:
                    loss = loss + mc.loss
            self.scaler.scale(loss / parts).backward()
        correct = (logits.argmax(dim=1) == targets).sum()
        return torch.stack([loss.detach(), correct.to(loss.dtype)])

    def finish_epoch(self, test_set: Dataset[Any], workers: int = 0) -> None:
        """Evaluate on the test images, and add the epoch's row."""
        started = time.perf_counter()
        if (scale := self.scaler.get_scale()) < 1:  # it is 1 where nothing is scaled
            raise DivergedError(
                f"the gradients are no finite numbers in float16 at step {self.step}, epoch {len(self.rows) + 1}: the "
                f"loss was scaled down to {scale:g} and steps were left out. Set mixed_precision to bf16 or off."
            )
        distributed.share_buffers(self.network)
        with self.autocast():
            test = evaluate(self.network, test_set, self.settings.batch_size, workers=workers)
        self._require_finite("test cross-entropy", test["cross_entropy"])
        images = self.totals["images"]
        self.rows.append(
            {
                "epoch": len(self.rows) + 1,
                "step": self.step,
                "train_loss": self.totals["loss"] / images,
                "train_accuracy": self.totals["correct"] / images,
                **{f"test_{name}": value for name, value in test.items()},
                "seconds": self.totals["seconds"] + time.perf_counter() - started,
            }
        )
        self.totals = {}

    def is_best(self) -> bool:
        """Whether the last epoch has a higher test accuracy than every one before."""
        *before, last = (row["test_accuracy"] for row in self.rows)
        return all(last > accuracy for accuracy in before)

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision, where the settings ask for it."""
        return autocast(self.settings, self.device)

    def save(self, path: Path) -> None:
        """Write the checkpoint; only the first process does."""
        if distributed.rank() == 0:
            parts = {name: part.state_dict() for name, part in self._state().items()}
            position = {"step": self.step, "rows": self.rows, "totals": self.totals}
            data = {"num_images": self.num_images, "classes": self.classes}
            checkpoint.save(path, {"settings": asdict(self.settings), **data, **position, **parts})

    def load(self, path: Path) -> None:
        """Go back to a checkpoint of a run with the same settings and training images."""
        state = load_state(path, self.settings, self.num_images, self.classes)
        for name, part in self._state().items():
            part.load_state_dict(state[name])
        self.step, self.rows, self.totals = state["step"], state["rows"], state["totals"]

    def _state(self) -> dict[str, Any]:
        return {"network": self.network, "optimizer": self.optimizer, "scaler": self.scaler}

    def _wrapped(self) -> tuple[nn.Module, DistributedDataParallel | None]:
        """What a step calls, and the part of it that shares gradients among processes, if there are several."""
        if self.settings.channels_last:
            self.network.to(memory_format=torch.channels_last)
        wrapped: nn.Module = self.network
        parallel = None
        if distributed.size() > 1:
            on_gpu = self.device.type == "cuda"
            if on_gpu:  # elsewhere PyTorch has none, and batch norm sees the images of its own process
                wrapped = nn.SyncBatchNorm.convert_sync_batchnorm(wrapped)
            wrapped = parallel = DistributedDataParallel(wrapped, device_ids=[self.device] if on_gpu else None)
        return torch.compile(wrapped) if self.settings.compile else wrapped, parallel

    def _gradients_shared(self, shared: bool) -> AbstractContextManager[None]:
        """Let the processes share their gradients only once a step."""
        return nullcontext() if shared or self.parallel is None else self.parallel.no_sync()

    def _set_learning_rates(self) -> None:
        factor = learning_rate_factor(self.settings, self.step / self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def _add(self, **values: float) -> None:
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0.0) + value

    def _require_finite(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise DivergedError(
                f"the {name} is {value} at step {self.step}, epoch {len(self.rows) + 1}, with learning rate "
                f"{self.optimizer.param_groups[-1]['lr']:.3g}. Lower learning_rate or the weights of the MC-Loss, and "
                "look for images that are no numbers."
            )


def load_state(path: Path, settings: Settings, num_images: int, classes: Sequence[str]) -> dict[str, Any]:
    """A checkpoint of a run; ValueError where that had other settings, or other images by their number or classes."""
    state = checkpoint.load(path)
    if changed := differences(checkpoint.settings_in(state, path), settings):
        raise ValueError(f"{path} and this run must have the same settings; they differ: {', '.join(changed)}.")
    if "num_images" not in state:
        raise ValueError(f"{path} must be a checkpoint of this version of reference train, which keeps num_images.")
    changed = [] if state["num_images"] == num_images else [f"{state['num_images']} to train on, now {num_images}"]
    pairs = zip_longest(state["classes"], classes)
    changed += [f"class {place} {was!r}, now {now!r}" for place, (was, now) in enumerate(pairs, start=1) if was != now]
    if changed:
        raise ValueError(
            f"{path} is of a run on other images, which had {changed[0]}. A run goes on with the images that it had, "
            "wherever they lie now."
        )
    return state


def draw_mask(network: MCNetwork, device: torch.device) -> Tensor | None:
    """The mask for all parts of a batch, in whichever process, (N,); None where the MC-Loss masks nothing."""
    loss = network.loss
    if loss is None or loss.drop == 0:
        return None
    return sample_channel_mask(loss.groups, drop=loss.drop, device=device, backend=loss.backend)


def autocast(settings: Settings, device: torch.device) -> AbstractContextManager[Any]:
    """Mixed precision as in the settings, for training and for evaluation alike."""
    dtype = torch.float16 if settings.mixed_precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=settings.mixed_precision != "off")


def learning_rate_factor(settings: Settings, epoch: float) -> float:
    """What the learning rate is multiplied by after ``epoch`` epochs, which may be in the middle of one."""
    if settings.milestones:
        return float(0.1 ** sum(milestone <= epoch for milestone in settings.milestones))
    return 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs))
