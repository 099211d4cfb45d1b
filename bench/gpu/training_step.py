"""Stage 7: a training step of ResNet50 at 448 pixels in bf16 channels_last: no MC-Loss, the official one, ours.

Each in eager mode, captured in a CUDA graph, and compiled. The steps of the three take turns, and the share of the loss
is (step − step without it) / step. The official formula is given its mask as ours is, drawn on the GPU; the published
code draws it on the CPU.
"""

from __future__ import annotations

import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50

from mcl_triton import ChannelGroups, MCLoss, MCLossOutput, sample_channel_mask
from reference.model.network import MCNetwork

from .. import results
from ..cases import Case
from ..measure.compare import device_facts
from ..providers import OURS, official
from .stage import Part, Setup

WAYS = ("eager", "captured", "compiled")
TURNS = 20
WARM_UP = 4


@dataclass(frozen=True)
class Sizes:
    """What is trained.

    Attributes:
        network: the constructor of the backbone.
        channels: of its last features.
        pixels: side of an image.
        batch: images per step.
        classes: those of CUB.
    """

    network: Callable[[], nn.Module]
    channels: int
    pixels: int
    batch: int
    classes: int = 200

    @property
    def groups(self) -> ChannelGroups:
        """The channels of the backbone, divided among the classes."""
        return ChannelGroups.split(self.channels, self.classes)

    @property
    def case(self) -> Case:
        """The features that reach the loss."""
        return Case(
            self.batch,
            self.groups,
            self.pixels // 32,
            torch.bfloat16,
            "channels_last",
            data_set="CUB",
            network=self.network.__name__.replace("resnet", "ResNet"),
            pixels=self.pixels,
        )


REAL = Sizes(resnet50, 2048, 448, 32)
STAND_IN = Sizes(resnet18, 512, 64, 2)  # for a CPU


class OfficialLoss(nn.Module):
    """The official formula as a module, with a mask of the same kind as ours."""

    def __init__(self, groups: ChannelGroups) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, features: Tensor, targets: Tensor, mask: Tensor | None = None) -> MCLossOutput:
        """The loss of a batch; its parts are not kept apart."""
        if mask is None:
            mask = sample_channel_mask(self.groups, device=features.device)
        loss = official(features, targets, mask, self.groups)
        return MCLossOutput(loss, loss, loss, loss)


LOSSES: dict[str, Callable[[ChannelGroups], nn.Module | None]] = {
    "no MC-Loss": lambda groups: None,
    "official": OfficialLoss,
    "ours": MCLoss,
}


def parts(setup: Setup) -> list[Part]:
    """The masks of a captured loss, then each way of running the steps."""
    sizes = REAL if setup.is_gpu else STAND_IN
    return [
        Part("replays draw different masks", lambda: different_masks(setup)),
        *(Part(way, lambda way=way: compare(setup, sizes, way)) for way in WAYS),  # type: ignore[misc]
    ]


def network_with(loss: nn.Module | None, sizes: Sizes, setup: Setup, way: str) -> MCNetwork:
    """The network of the paper around a backbone, with random weights."""
    torch.manual_seed(0)
    backbone = nn.Sequential(*list(sizes.network().children())[:-2])
    network = MCNetwork(backbone, sizes.groups, loss)  # type: ignore[arg-type]
    network = network.to(setup.device, memory_format=torch.channels_last).train()
    if way == "compiled":
        compiler = "inductor" if setup.is_gpu else "eager"
        network.features.compile(backend=compiler)
        if network.loss is not None:
            network.loss.compile(backend=compiler)
    return network


def step_of(network: MCNetwork, sizes: Sizes, device: torch.device) -> Callable[[], Tensor]:
    """A whole training step on one batch: forward in bf16, backward, SGD; it returns the loss."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(sizes.batch, 3, sizes.pixels, sizes.pixels, generator=generator)
    images = images.to(device, memory_format=torch.channels_last)
    targets = torch.randint(sizes.classes, (sizes.batch,), generator=generator).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            _, cross_entropy, mc = network(images, targets)
            loss: Tensor = cross_entropy if mc is None else cross_entropy + mc.loss
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def captured(step: Callable[[], Any]) -> tuple[Callable[[], Any], Any]:
    """The replay of a CUDA graph of a step, after some steps outside of it, and what the captured step returned."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()
    return graph.replay, result


def different_masks(setup: Setup, replays: int = 8) -> str:
    """A captured step of the loss alone, without diversity: channels without a gradient are those that were dropped."""
    setup.require_gpu()
    groups = REAL.groups
    features = torch.randn(8, groups.num_channels, 14, 14, device=setup.device).to(memory_format=torch.channels_last)
    features.requires_grad_()
    targets = torch.arange(8, device=setup.device)
    loss = MCLoss(groups, weights=(1.0, 0.0))

    def step() -> Tensor:
        (gradient,) = torch.autograd.grad(loss(features, targets).loss, features)
        return gradient

    replay, gradient = captured(step)
    kept = set()
    for _ in range(replays):
        replay()
        torch.cuda.synchronize()
        kept.add(tuple(gradient.ne(0).any(dim=3).any(dim=2).any(dim=0).tolist()))
    if len(kept) < replays:
        raise AssertionError(f"{replays} replays drew {len(kept)} different masks")
    dropped = sum(size // 2 for size in groups.sizes)
    if any(sum(mask) > groups.num_channels - dropped for mask in kept):
        raise AssertionError(f"a mask keeps more than {groups.num_channels - dropped} channels")
    return f"{replays} replays drew {len(kept)} different masks"


def compare(setup: Setup, sizes: Sizes, way: str) -> str:
    """Time and memory of a step with each loss; the other losses go on where one of them fails."""
    if way == "captured":
        setup.require_gpu()
    if setup.is_gpu:
        torch.backends.cudnn.benchmark = True
    steps: dict[str, Callable[[], Any]] = {}
    peaks: dict[str, int] = {}
    failed: dict[str, str] = {}
    for name, make in LOSSES.items():
        try:
            steps[name], peaks[name] = _prepared(setup, sizes, way, make(sizes.groups))
        except Exception as error:
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0][:150]
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(TURNS if setup.is_gpu else 2):
        for name, step in steps.items():
            seconds[name].append(_seconds(step, setup.is_gpu))
    results.append(setup.results, rows(setup, sizes, way, seconds, peaks))
    text = table(seconds, peaks)
    if failed:
        raise RuntimeError("; ".join([*(f"{name} fails: {why}" for name, why in failed.items()), text]))
    return text


def _prepared(setup: Setup, sizes: Sizes, way: str, loss: nn.Module | None) -> tuple[Callable[[], Any], int]:
    """A step that is ready to be timed, and the most memory that it held at a time, beyond what was there before."""
    if setup.is_gpu:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if setup.is_gpu else 0
    step = step_of(network_with(loss, sizes, setup, way), sizes, setup.device)
    if way == "captured":
        step, value = captured(step)
        step()
    else:
        for _ in range(WARM_UP if setup.is_gpu else 1):
            value = step()
    if not value.isfinite():
        raise AssertionError(f"the loss is {value.item()}")
    return step, torch.cuda.max_memory_allocated() - before if setup.is_gpu else 0


def _seconds(step: Callable[[], Any], is_gpu: bool) -> float:
    """From the call until the device is done."""
    start = time.perf_counter()
    step()
    if is_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def rows(
    setup: Setup, sizes: Sizes, way: str, seconds: dict[str, list[float]], peaks: dict[str, int]
) -> list[dict[str, Any]]:
    """Rows of results: the time of a whole step, and its memory."""
    found = []
    for name, times in seconds.items():
        facts = sizes.case.facts | device_facts(setup.device)
        facts |= {"provider": name, "compiled": way == "compiled", "mode": "training step"}
        if name == "ours":
            facts["backend"] = OURS["triton" if setup.is_gpu else "eager"].backend
        metric = "kernel" if way == "captured" else "wall"
        found.append(results.result(metric, [1e3 * time for time in times], "measured", **facts))
        if peaks[name]:
            found.append(results.result("peak", peaks[name], "measured", **facts))
    return found


def table(seconds: dict[str, list[float]], peaks: dict[str, int]) -> str:
    """Median, share of the loss and memory of each, in one line."""
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    without = medians.get("no MC-Loss")
    texts = []
    for name, median in medians.items():
        text = f"{name} {1e3 * median:.2f} ms"
        if without is not None and name != "no MC-Loss":
            text += f" (share {(median - without) / median:.1%})"
        texts.append(text + (f", {peaks[name] / 2**30:.2f} GiB" if peaks[name] else ""))
    return "; ".join(texts)
