"""Some 20 small steps that launch every kernel, in every layout and at every edge: `python -m bench.gpu.launches`.

Each is compared with the oracle. By itself this is the script that compute-sanitizer watches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mcl_triton import ChannelGroups, mc_loss, sample_channel_mask
from reference.formulas.paper import official_loss

from ..cases import Case
from ..providers import Inputs, Provider, verdict_on

RAGGED = ChannelGroups([2, 5, 1, 3, 2, 2])


def as_it_is(features: Tensor) -> Tensor:
    """In the layout of the case."""
    return features


def every_second_channel(features: Tensor) -> Tensor:
    """Rows of positions with gaps between the channels."""
    return features.repeat_interleave(2, dim=1)[:, ::2]


def batch_last(features: Tensor) -> Tensor:
    """Neither positions nor channels are next to each other."""
    return features.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


def misaligned(features: Tensor) -> Tensor:
    """Begins at an odd element of its memory."""
    memory = features.new_empty(features.numel() + 1)
    return memory[1:].as_strided(features.shape, features.stride()).copy_(features)


def expanded(features: Tensor) -> Tensor:
    """All samples are the first one, with a stride of 0."""
    return features[:1].expand_as(features)


@dataclass(frozen=True)
class Step:
    """A step of the loss.

    Attributes:
        case: the features.
        lay_out: puts them into another layout than those that a case has.
        mask: "shared" (N,), "per sample" (B, N) or "none".
        weights: α and β; without one of them the kernels leave out half of their work.
    """

    case: Case
    lay_out: Callable[[Tensor], Tensor] = field(default=as_it_is)
    mask: str = "shared"
    weights: tuple[float, float] = (1.5, 20.0)

    def inputs(self, device: torch.device) -> Inputs:
        """Features and targets on the device, with a mask drawn there by the kernel; none is a mask of ones."""
        batch = self.case.batch if self.mask == "per sample" else None
        mask = sample_channel_mask(
            self.case.groups,
            drop=0 if self.mask == "none" else "half",
            batch_size=batch,
            generator=torch.Generator(device).manual_seed(0),
            device=device,
            backend="triton",
        )
        return Inputs(self.case, self.lay_out(self.case.features().to(device)), self.case.targets().to(device), mask)

    def mistake(self, device: torch.device) -> str | None:
        """What is wrong with our loss and its gradient, by comparison with the oracle; None where nothing is.

        On a GPU the step is taken twice: the second one launches the compiled kernels by a shorter way.
        """
        inputs = self.inputs(device)

        def ours(features: Tensor, targets: Tensor, mask: Tensor, groups: ChannelGroups) -> Tensor:
            given = None if self.mask == "none" else mask
            return mc_loss(features, targets, groups, mask=given, drop=0, weights=self.weights, backend="triton").loss

        def exact(features: Tensor, targets: Tensor, mask: Tensor, groups: ChannelGroups) -> Tensor:
            return official_loss(features, targets, groups.sizes, mask, *self.weights)

        doubles = (inputs.features.double().cpu(), inputs.targets.cpu(), inputs.mask.double().cpu())
        truth = Inputs(self.case, *doubles).step(exact)
        for _ in range(2 if device.type == "cuda" else 1):
            if (mistake := verdict_on(Provider("ours", ours), inputs, truth).mistake) is not None:
                return mistake
        return None


def _step(batch: int, groups: ChannelGroups, side: int, dtype: torch.dtype, layout: str, **options: object) -> Step:
    return Step(Case(batch, groups, side, dtype, layout), **options)  # type: ignore[arg-type]


_UNIFORM = ChannelGroups.uniform
_FP32, _FP64, _FP16, _BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
_ROWS, _LAST = "contiguous", "channels_last"

STEPS = {  # the kernel families first
    "ragged, 5×5": _step(3, RAGGED, 5, _FP32, _ROWS),
    "ragged, 5×5, channels_last": _step(3, RAGGED, 5, _FP32, _LAST),
    "few large groups": _step(1, _UNIFORM(1, 340), 7, _FP32, _ROWS),
    "few large groups, channels_last": _step(1, _UNIFORM(1, 340), 7, _BF16, _LAST),
    "groups that are split": _step(1, _UNIFORM(2, 160), 32, _FP32, _ROWS),  # from 1 MiB of features on
    "groups that are split, channels_last": _step(1, _UNIFORM(2, 100), 56, _BF16, _LAST),
    "maps too large for one look": _step(1, ChannelGroups([2, 1]), 65, _FP32, _ROWS),
    "14×14, 3 channels each": _step(2, _UNIFORM(22, 3), 14, _FP32, _ROWS),
    "14×14, 3 channels each, channels_last": _step(2, _UNIFORM(22, 3), 14, _BF16, _LAST),
    "14×14, 10 and 11 channels": _step(1, ChannelGroups.split(64, 6), 14, _BF16, _ROWS),
    "14×14, 10 and 11 channels, channels_last": _step(1, ChannelGroups.split(64, 6), 14, _BF16, _LAST),
    "7×7, 2 and 3 channels": _step(2, ChannelGroups.split(51, 20), 7, _FP16, _ROWS),
    "7×7, 2 and 3 channels, channels_last": _step(2, ChannelGroups.split(51, 20), 7, _FP16, _LAST),
    "56×56": _step(2, _UNIFORM(4, 3), 56, _FP32, _ROWS, mask="per sample"),
    "56×56, channels_last": _step(2, _UNIFORM(4, 3), 56, _BF16, _LAST, mask="per sample"),
    "1×1, one sample": _step(1, RAGGED, 1, _FP32, _ROWS, mask="none"),
    "one channel each": _step(3, _UNIFORM(33, 1), 3, _FP32, _LAST, mask="none"),
    "one class": _step(2, _UNIFORM(1, 33), 5, _FP32, _ROWS, mask="per sample"),
    "float64": _step(2, RAGGED, 5, _FP64, _ROWS),
    "float64, channels_last": _step(2, RAGGED, 5, _FP64, _LAST),
    "every second channel": _step(3, RAGGED, 5, _BF16, _ROWS, lay_out=every_second_channel),
    "batch last": _step(3, RAGGED, 5, _FP32, _ROWS, lay_out=batch_last),
    "misaligned": _step(3, RAGGED, 5, _BF16, _ROWS, lay_out=misaligned),
    "misaligned, channels_last": _step(3, RAGGED, 5, _BF16, _LAST, lay_out=misaligned),
    "expanded": _step(3, RAGGED, 5, _FP32, _ROWS, lay_out=expanded),
    "scores only": _step(3, RAGGED, 5, _FP32, _ROWS, weights=(1.5, 0.0)),
    "diversity only, channels_last": _step(3, RAGGED, 5, _FP32, _LAST, weights=(0.0, 20.0)),
}


def main() -> int:
    """Launch everything on the GPU; returns 1 where something is wrong."""
    wrong = 0
    for name, step in STEPS.items():
        mistake = step.mistake(torch.device("cuda"))
        print(f"{name}: {mistake or 'right'}", flush=True)
        wrong += mistake is not None
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
