"""The training loop: steps, evaluations, checkpoints.

A run is a function of its settings: everything random in it follows from the seed and the step, see `batches`. So a
run that was interrupted and resumed ends in the same weights, bit for bit on a CPU, as one that was not.

Several processes divide each batch among them and mask the same channels; without batch norm they get the weights that
one process gets, up to rounding. With it, on GPUs, statistics are those of all processes (SyncBatchNorm), but of one
part at a time where ``accumulation`` divides the batch into parts; on CPUs they are those of each process's own images.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD
from torch.utils.data import Dataset
from tqdm import tqdm

from mcl_triton import MCLoss, sample_channel_mask

from ..model.base_networks import parameter_groups
from ..model.network import MCNetwork
from . import checkpoint, distributed
from .batches import batches, derived_seed
from .checkpoint import TOTALS, Checkpoint, Row
from .evaluate import evaluate
from .interrupt import deferred_interrupt
from .logs import write_metrics
from .run_folder import BEST, CHECKPOINT, locked
from .settings import Settings

Part = tuple[Tensor, Tensor]
"""Images and class indices (B,)."""

_WORSE_THAN_GUESSING = 10
"""Times ln C, the cross-entropy of guessing: a test cross-entropy above that is reported."""


class DivergedError(FloatingPointError):
    """The loss is infinite or NaN, or so are all scaled gradients."""


def train(
    network: MCNetwork,
    train_set: Dataset[Any],
    test_set: Dataset[Any],
    settings: Settings,
    folder: Path,
    *,
    resume: bool = False,
    workers: int = 0,
    progress: bool = True,
    on_epoch: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Train a network and evaluate it in between; seeds PyTorch's random numbers as it goes.

    Where several processes train together, each calls this with the same arguments; the first one writes the files.

    Args:
        network: trained in place, on the device it is on.
        train_set: yields (image, class index); its random transforms draw PyTorch's random numbers. The names of its
            ``classes``, if it has them, go into the checkpoints.
        test_set: likewise, without random transforms.
        settings: of which all are used here but those that say what the data and the network are.
        folder: gets ``checkpoint.pt``, ``metrics.csv`` and ``metrics.json``, brought up to date after every
            evaluation, and ``best.pt``, the checkpoint of the first one with the highest test accuracy.
        resume: continue from the checkpoint in ``folder``, whose settings and training images must be the same.
        workers: processes that read ahead; nothing depends on how many.
        progress: show a bar.
        on_epoch: called with each new row.

    Returns:
        One row per evaluation, those before an interruption included.

    Raises:
        KeyboardInterrupt: after Ctrl-C, once the step is done and the checkpoint written.
        DivergedError: the loss is infinite or NaN; the last checkpoint is from before that.
        ValueError: the batch size does not fit; the folder has a run, or, to resume, one with other settings or
            images; or another process trains there.
        FileNotFoundError: there is no run to resume.
        OSError: a file cannot be written.
    """
    num_images: int = len(train_set)  # type: ignore[arg-type]
    classes = getattr(train_set, "classes", None) or list(map(str, range(network.groups.num_classes)))
    run = Run(network, settings, num_images, classes)
    writes = distributed.rank() == 0
    if writes and not resume:
        folder.mkdir(parents=True, exist_ok=True)
    with (
        locked(folder) if writes and folder.is_dir() else nullcontext(),
        _threads(settings.threads),
        deferred_interrupt() as is_interrupted,
    ):
        if resume:
            run.load(folder / CHECKPOINT)
        elif writes and (folder / CHECKPOINT).exists():
            raise ValueError(f"{folder} has a run: resume it by `python -m reference resume {folder}`.")
        else:
            run.save(folder / CHECKPOINT)  # so that from the first step on there is something to resume
        with tqdm(
            total=settings.epochs * run.steps_per_epoch * settings.batch_size,
            initial=run.step * settings.batch_size,
            unit=" images",
            disable=not (progress and writes),
        ) as bar:
            steps = run.steps(train_set, workers)
            for epoch in settings.evaluated_epochs()[len(run.rows) :]:
                while run.step < epoch * run.steps_per_epoch:
                    run.train_step(next(steps))
                    bar.set_postfix_str(run.status(), refresh=False)
                    bar.update(settings.batch_size)
                    if distributed.any_process(is_interrupted()):
                        run.save(folder / CHECKPOINT)
                        _stop()
                run.finish_epoch(test_set, workers)
                if writes:
                    write_metrics(folder, run)  # before the checkpoint: a run that ends here repeats this
                if run.is_best():
                    run.save(folder / BEST)
                run.save(folder / CHECKPOINT)
                bar.set_postfix_str(run.status())
                if on_epoch is not None and writes:
                    on_epoch(run.rows[-1])
                if distributed.any_process(is_interrupted()):
                    _stop()
    return run.rows


class Run:
    """The network, its optimiser and the progress of both; every process that trains has one.

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
                f"accumulation, {settings.accumulation}, and leave at least 2 images per part, for batch norm; got "
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
        self.rows: list[Row] = []  # one for each evaluation
        self.totals: Row = {}  # sums over the images since the last evaluation

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
        """One step of the optimiser; DivergedError, and no step, where the loss is not finite."""
        started = time.perf_counter()
        self.network.train()
        # The same mask for all parts of the batch, in every process.
        torch.manual_seed(derived_seed(self.settings.seed, "step", self.step))
        mask = draw_mask(self.network, self.device)
        factor = learning_rate_factor(self.settings, self.step / self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        # Forward and backward, part by part.
        self.optimizer.zero_grad()
        measured = [self._add_gradients(part, mask, number) for number, part in enumerate(batch)]
        # The means over the batch; only now, as reading a number waits for the device.
        of_parts = [each.tolist() for each in measured]
        sizes = [len(targets) for _, targets in batch]
        images, loss, correct = distributed.total(
            [
                sum(sizes),
                sum(size * mean_loss for size, (mean_loss, _) in zip(sizes, of_parts, strict=True)),
                sum(correct for _, correct in of_parts),
            ]
        )
        self._require_finite("training loss", loss / images, self.step // self.steps_per_epoch + 1)
        # The update.
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        values = (images, loss, correct, time.perf_counter() - started)
        self.totals = {name: self.totals.get(name, 0.0) + value for name, value in zip(TOTALS, values, strict=True)}

    def _add_gradients(self, part: Part, mask: Tensor | None, number: int) -> Tensor:
        """Backward for one part of the batch; returns its mean loss and how many answers are right, (2,)."""
        parts = self.settings.accumulation
        images, targets = (tensor.to(self.device, non_blocking=True) for tensor in part)
        # Dropout and the like draw other numbers for each part.
        torch.manual_seed(derived_seed(self.settings.seed, "step", self.step, distributed.rank() * parts + number))
        is_last = number == parts - 1  # only then the processes share their gradients
        with nullcontext() if is_last or self.parallel is None else self.parallel.no_sync():
            with autocast(self.settings, self.device):
                logits, loss, mc = self.wrapped(images, targets, mask)
                if mc is not None:
                    loss = loss + mc.loss
            self.scaler.scale(loss / parts).backward()
        correct = (logits.argmax(dim=1) == targets).sum()
        return torch.stack([loss.detach(), correct.to(loss.dtype)])

    def finish_epoch(self, test_set: Dataset[Any], workers: int = 0) -> None:
        """Evaluate on the test images, and add a row of what happened since the last evaluation."""
        started = time.perf_counter()
        epoch = self.step // self.steps_per_epoch
        if (scale := self.scaler.get_scale()) < 1:  # it is 1 where nothing is scaled
            raise DivergedError(
                f"the gradients are not finite in float16 at step {self.step}, epoch {epoch}: the loss was scaled "
                f"down to {scale:g} and steps were left out. Set mixed_precision to bf16 or off."
            )
        distributed.share_buffers(self.network)
        with autocast(self.settings, self.device):
            test = evaluate(self.network, test_set, self.settings.batch_size, workers=workers)
        self._require_finite("test cross-entropy", test["cross_entropy"], epoch)
        images = self.totals["images"]
        self.rows.append(
            {
                "epoch": epoch,
                "step": self.step,
                "train_loss": self.totals["loss"] / images,
                "train_accuracy": self.totals["correct"] / images,
                **{f"test_{name}": value for name, value in test.items()},
                "seconds": self.totals["seconds"] + time.perf_counter() - started,
            }
        )
        self.totals = {}
        self._warn_if_diverging()

    def status(self) -> str:
        """The mean loss since the last evaluation, or before it, and its test accuracy."""
        loss = self.totals["loss"] / self.totals["images"] if self.totals else self.rows[-1]["train_loss"]
        return f"loss {loss:.3f}" + (f", test accuracy {self.rows[-1]['test_accuracy']:.1%}" if self.rows else "")

    def is_best(self) -> bool:
        """Return whether the last evaluation has a higher test accuracy than every one before."""
        *before, last = (row["test_accuracy"] for row in self.rows)
        return all(last > accuracy for accuracy in before)

    def save(self, path: Path) -> None:
        """Write the checkpoint; only the first process does."""
        if distributed.rank() == 0:
            state = {name: part.state_dict() for name, part in self._stateful().items()}
            data = (self.settings, self.num_images, self.classes, self.step, self.rows, self.totals)
            checkpoint.save(path, Checkpoint(*data, **state))

    def load(self, path: Path) -> None:
        """Return to a checkpoint of a run with the same settings and training images."""
        state = checkpoint.load_same_run(path, self.settings, self.num_images, self.classes)
        expected = [_hyperparameters(group) for group in self.optimizer.param_groups]
        checkpoint.restore(path, **{name: (part, getattr(state, name)) for name, part in self._stateful().items()})
        moved = [entry.get("momentum_buffer") for entry in self.optimizer.state.values()]
        # Before the first step, and as long as float16 overflows, no parameter has a momentum.
        none_yet = not moved and (state.step == 0 or self.settings.momentum == 0 or self.scaler.is_enabled())
        whole = len(moved) == len(list(self.network.parameters())) and all(
            isinstance(buffer, Tensor) and buffer.shape == parameter.shape
            for parameter, buffer in zip(self.optimizer.state, moved, strict=True)
        )
        if [_hyperparameters(group) for group in self.optimizer.param_groups] != expected or not (none_yet or whole):
            raise ValueError(f"{path}: its optimizer does not fit its settings and its step, {state.step}.")
        self.step, self.rows, self.totals = state.step, state.rows, state.totals

    def _stateful(self) -> dict[str, Any]:
        return {"network": self.network, "optimizer": self.optimizer, "scaler": self.scaler}

    def _wrapped(self) -> tuple[nn.Module, DistributedDataParallel | None]:
        """The module that a step calls, and the part of it that shares gradients among processes, if any."""
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

    def _require_finite(self, name: str, value: float, epoch: int) -> None:
        if not math.isfinite(value):
            raise DivergedError(
                f"the {name} is {value} at step {self.step}, epoch {epoch}, with learning rate "
                f"{self.optimizer.param_groups[-1]['lr']:.3g}. Lower learning_rate or the weights of the MC-Loss, and "
                "check the images for values that are not finite."
            )

    def _warn_if_diverging(self) -> None:
        """Warn at the first of successive evaluations whose cross-entropy is far above that of guessing."""
        guessing = math.log(self.network.groups.num_classes)
        is_far_above = [row["test_cross_entropy"] > _WORSE_THAN_GUESSING * guessing for row in self.rows[-2:]]
        if distributed.rank() == 0 and is_far_above[-1] and not all(is_far_above[:-1] or [False]):
            last = self.rows[-1]
            warnings.warn(
                f"the test cross-entropy is {last['test_cross_entropy']:.3g} after epoch {last['epoch']:.0f}; "
                f"guessing gives ln {self.network.groups.num_classes} = {guessing:.3g}. The network may diverge, "
                "whatever its diversity and overlap, which do not measure success by themselves. Lower learning_rate.",
                RuntimeWarning,
                stacklevel=2,
            )


def draw_mask(network: MCNetwork, device: torch.device) -> Tensor | None:
    """The mask of a step, (N,); None where the MC-Loss masks nothing."""
    loss = network.loss
    if not isinstance(loss, MCLoss) or loss.drop == 0:
        return None
    return sample_channel_mask(loss.groups, drop=loss.drop, device=device, backend=loss.backend)


def autocast(settings: Settings, device: torch.device) -> AbstractContextManager[Any]:
    """Mixed precision as in the settings, for training and for evaluation alike."""
    dtype = torch.float16 if settings.mixed_precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=settings.mixed_precision != "off")


def learning_rate_factor(settings: Settings, epoch: float) -> float:
    """The factor of the learning rate after ``epoch`` epochs, not necessarily a whole number."""
    if settings.milestones:
        return float(0.1 ** sum(milestone <= epoch for milestone in settings.milestones))
    return 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs))


def _hyperparameters(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name not in ("params", "lr")}


def _stop() -> None:
    """Raise KeyboardInterrupt once every process is here: torchrun ends the others when one ends."""
    distributed.any_process(True)
    raise KeyboardInterrupt


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Set PyTorch's threads for a run: sums on the CPU depend on their number in the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
