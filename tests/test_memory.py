"""The eager path needs little memory beside the features: measured by the profiler's record of every allocation."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from mcl_triton import ChannelGroups, channel_pool, sample_channel_mask

UNIFORM_3 = ChannelGroups.uniform(200, 3)
RESNET50 = ChannelGroups.split(2048, 200)
SHAPES = {
    "vgg16-14": (32, UNIFORM_3, 14),
    "uniform10-14": (16, ChannelGroups.uniform(200, 10), 14),
    "resnet50-14": (16, RESNET50, 14),
    "vgg16-28": (8, UNIFORM_3, 28),
    "vgg16-7": (32, UNIFORM_3, 7),
    "resnet18-7": (64, ChannelGroups.split(512, 200), 7),
}
LAYOUTS = {
    "contiguous": (torch.float32, torch.contiguous_format),
    "channels_last": (torch.float32, torch.channels_last),
    "bfloat16": (torch.bfloat16, torch.contiguous_format),
}


def peak_bytes(run: Callable[[], object]) -> int:
    """The most memory that ``run`` holds at a time, its result included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert events, "the profiler recorded no allocation"
    del result
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


def features_and_mask(shape: str, layout: str) -> tuple[Tensor, ChannelGroups, Tensor]:
    batch, groups, side = SHAPES[shape]
    dtype, memory_format = LAYOUTS[layout]
    features = torch.randn(batch, groups.num_channels, side, side).relu().to(dtype)
    return features.contiguous(memory_format=memory_format), groups, sample_channel_mask(groups)


def test_the_measure_sees_an_allocation_that_is_freed_again() -> None:
    def run() -> Tensor:
        return torch.ones(1000) + torch.ones(1000).exp().sum()

    assert 8000 <= peak_bytes(run) <= 16000


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_holds_less_than_a_tenth_of_the_features(shape: str, layout: str) -> None:
    features, groups, mask = features_and_mask(shape, layout)
    assert peak_bytes(lambda: channel_pool(features, groups, mask)) < 0.10 * features.nbytes


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_backward_holds_the_gradient_and_less_than_15_percent_more(shape: str, layout: str) -> None:
    features, groups, mask = features_and_mask(shape, layout)
    pooled = channel_pool(features.requires_grad_(), groups, mask)
    grads = [torch.randn_like(output) for output in pooled]
    peak = peak_bytes(lambda: torch.autograd.grad(pooled, features, grads))
    assert features.nbytes <= peak < 1.15 * features.nbytes
