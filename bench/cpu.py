"""How many times faster than the formulas it replaces the loss is on this CPU: `python -m bench.cpu`.

Every provider computes loss and gradient of the same features, targets and mask. They take turns, so that whatever
else the machine does hits all alike; the ratios are taken turn by turn. Before anything is timed, every provider's
loss and gradient are compared with the oracle in float64.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile

from mcl_triton import ChannelGroups, mc_loss, sample_channel_mask
from reference.environment import environment, usable_cores
from reference.loss import official_loss
from reference.official import ragged_loss

Loss = Callable[[Tensor, Tensor, Tensor, ChannelGroups], Tensor]


class Case(NamedTuple):
    """Features that are pooled: shape, groups, layout and dtype."""

    batch: int
    groups: ChannelGroups
    side: int  # height and width, in spatial positions
    dtype: torch.dtype = torch.float32
    channels_last: bool = False

    def __str__(self) -> str:
        layout = "channels_last" if self.channels_last else "contiguous"
        groups = repr(self.groups).removeprefix("ChannelGroups")
        shape = f"{self.batch}×{self.groups.num_channels}×{self.side}×{self.side}"
        return f"{shape} {groups} {str(self.dtype).removeprefix('torch.')} {layout}"

    def features(self, seed: int = 0) -> Tensor:
        """Random activations after a ReLU: about half of them are zero."""
        shape = (self.batch, self.groups.num_channels, self.side, self.side)
        features = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).relu().to(self.dtype)
        return features.contiguous(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)


VGG16 = ChannelGroups.uniform(200, 3)  # CUB from scratch
RESNET50 = ChannelGroups.split(2048, 200)  # CUB, pretrained
SMALL = ChannelGroups.split(512, 200)
CASES = [
    Case(32, VGG16, 14),
    Case(16, ChannelGroups.uniform(200, 10), 14),
    Case(16, RESNET50, 14),
    Case(8, VGG16, 28),
    Case(32, VGG16, 7),
    Case(64, SMALL, 7),
    Case(32, VGG16, 14, channels_last=True),
    Case(16, RESNET50, 14, channels_last=True),
    Case(32, VGG16, 14, torch.bfloat16),
    Case(16, RESNET50, 14, torch.bfloat16),
    Case(16, RESNET50, 14, torch.bfloat16, channels_last=True),
]


def official(features: Tensor, targets: Tensor, mask: Tensor, groups: ChannelGroups) -> Tensor:
    """The published formula."""
    return ragged_loss(features, targets, groups.runs, mask.to(features.dtype))


def plain(features: Tensor, targets: Tensor, mask: Tensor, groups: ChannelGroups) -> Tensor:
    """What one writes oneself: the two reductions by `max(dim)`, the gradient by autograd."""
    x = features.flatten(2)
    attention, attended = x.softmax(dim=2), x * mask.to(x.dtype)[:, None]
    scores, fractions = [], []
    first = 0
    for classes, size in groups.runs:
        own = slice(first, first + classes * size)
        scores.append(attended[:, own].unflatten(1, (classes, size)).max(dim=2).values.mean(dim=2))
        fractions.append(attention[:, own].unflatten(1, (classes, size)).max(dim=2).values.sum(dim=2) / size)
        first += classes * size
    g, fraction = (parts[0] if len(parts) == 1 else torch.cat(parts, 1) for parts in (scores, fractions))
    return 1.5 * cross_entropy(g, targets) + 20 * (1 - fraction.mean())


def ours(features: Tensor, targets: Tensor, mask: Tensor, groups: ChannelGroups) -> Tensor:
    """`mcl_triton.mc_loss`."""
    return mc_loss(features, targets, groups, mask=mask, backend="eager").loss


def step(loss: Loss, features: Tensor, targets: Tensor, mask: Tensor, groups: ChannelGroups) -> tuple[Tensor, Tensor]:
    """Forward and backward: the loss and the gradient of the features."""
    leaf = features.detach().requires_grad_()
    value = loss(leaf, targets, mask, groups)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def check(loss: Loss, case: Case, features: Tensor, targets: Tensor, mask: Tensor) -> str | None:
    """None if loss and gradient agree with the oracle in float64, else what is wrong."""

    def oracle(features: Tensor, targets: Tensor, mask: Tensor, groups: ChannelGroups) -> Tensor:
        return official_loss(features, targets, groups.sizes, mask.double(), alpha=1.5, beta=20.0)

    value, grad = step(loss, features, targets, mask, case.groups)
    true_value, true_grad = step(oracle, features.double(), targets, mask, case.groups)
    # Where two channels of a group are equal but for rounding, the winner, and with it both channels' gradient, is a
    # matter of the dtype: such channels are few, and all others have to agree.
    tolerance = 64 * torch.finfo(case.dtype).eps
    is_off = (grad - true_grad).abs() > tolerance * (true_grad.abs() + true_grad.abs().max())
    channels_off = is_off.flatten(2).any(dim=2).double().mean().item()
    if not torch.allclose(value.double(), true_value, rtol=tolerance):
        return f"loss {value.item():.6g}, oracle {true_value.item():.6g}"
    if channels_off > 1e-3:
        return f"gradient differs from the oracle's in {channels_off:.2%} of the channels"
    return None


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(case: Case, providers: dict[str, Loss], turns: int) -> dict[str, list[float]]:
    """Seconds of forward + backward, by provider, turn by turn; a provider that is wrong is reported and left out."""
    features = case.features()
    generator = torch.Generator().manual_seed(1)
    targets = torch.randint(case.groups.num_classes, (case.batch,), generator=generator)
    mask = sample_channel_mask(case.groups, generator=generator)
    runs = {}
    for name, loss in providers.items():
        torch.compiler.reset()  # each shape is compiled by itself, as in training
        mistake = check(loss, case, features, targets, mask)
        if mistake:
            print(f"  {name} is wrong and not timed: {mistake}")
        else:
            runs[name] = lambda loss=loss: step(loss, features, targets, mask, case.groups)
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(turns):
        for name, run in runs.items():
            times[name].append(seconds(run))
    return times


def profile_ours(case: Case) -> str:
    """Where the time of our forward + backward goes, operator by operator."""
    features, generator = case.features(), torch.Generator().manual_seed(1)
    targets = torch.randint(case.groups.num_classes, (case.batch,), generator=generator)
    mask = sample_channel_mask(case.groups, generator=generator)
    for _ in range(3):
        step(ours, features, targets, mask, case.groups)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(10):
            step(ours, features, targets, mask, case.groups)
    return profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=40)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[usable_cores()], help="numbers of threads (default: all cores)"
    )
    parser.add_argument("--turns", type=int, default=11, help="measurements of each provider (default: 11)")
    parser.add_argument("--cases", nargs="+", default=[""], help="only cases whose line contains one of these")
    parser.add_argument("--no-compile", action="store_true", help="leave out what torch.compile has to compile first")
    parser.add_argument("--profile", action="store_true", help="show where our time goes, and time nothing")
    arguments = parser.parse_args()

    providers: dict[str, Loss] = {"official": official, "plain": plain, "ours": ours}
    if not arguments.no_compile:
        providers["plain compiled"] = torch.compile(plain)
        providers["ours compiled"] = torch.compile(ours)
    on = environment()
    print(f"{on['cpu']}, {on['cores']} cores; Python {on['python']}, torch {on['torch']}; forward + backward")
    print("ms: median; times as fast as: median (lowest to highest) of the turn-by-turn ratios")
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for case in CASES:
            if not any(part in str(case) for part in arguments.cases):
                continue
            print(f"{case}, {threads} threads")
            if arguments.profile:
                print(profile_ours(case))
                continue
            times = measure(case, providers, arguments.turns)
            for name, values in times.items():
                line = f"  {name:15}{statistics.median(values) * 1e3:8.2f} ms"
                if name != "ours" and "ours" in times:
                    ratios = sorted(other / own for other, own in zip(values, times["ours"], strict=True))
                    line += f"{statistics.median(ratios):8.2f} x ours ({ratios[0]:.2f} to {ratios[-1]:.2f})"
                print(line, flush=True)


if __name__ == "__main__":
    main()
