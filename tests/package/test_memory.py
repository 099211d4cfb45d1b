"""Memory of the eager path on one thread: a few blocks, and what backward needs, however large the features are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench.measure.memory import peak_bytes
from mcl_triton import ChannelGroups, channel_pool, eager, sample_channel_mask

BLOCK_BYTES = 4 * eager.BLOCK_SIZE

SHAPES = {
    "from-scratch": (32, ChannelGroups.uniform(200, 3), 14),
    "resnet50": (16, ChannelGroups.split(2048, 200), 14),
    "resnet50-larger-batch": (48, ChannelGroups.split(2048, 200), 14),
    "resnet18-small-maps": (64, ChannelGroups.split(512, 200), 7),
}
LAYOUTS = {
    "contiguous": (torch.float32, torch.contiguous_format),
    "channels_last": (torch.float32, torch.channels_last),
    "bfloat16": (torch.bfloat16, torch.contiguous_format),
}


def features_and_mask(shape: str, layout: str) -> tuple[Tensor, ChannelGroups, Tensor]:
    batch, groups, side = SHAPES[shape]
    dtype, memory_format = LAYOUTS[layout]
    features = torch.randn(batch, groups.num_channels, side, side).relu().to(dtype)
    return features.contiguous(memory_format=memory_format), groups, sample_channel_mask(groups)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_without_gradient_takes_less_than_four_blocks(shape: str, layout: str) -> None:
    features, groups, mask = features_and_mask(shape, layout)
    assert peak_bytes(lambda: channel_pool(features, groups, mask)) < 4 * BLOCK_BYTES


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_backward_takes_the_gradient_and_less_than_four_blocks(shape: str, layout: str) -> None:
    features, groups, mask = features_and_mask(shape, layout)
    pooled = channel_pool(features.requires_grad_(), groups, mask)
    grads = [torch.randn_like(output) for output in pooled]
    peak = peak_bytes(lambda: torch.autograd.grad(pooled, features, grads))
    assert features.nbytes <= peak < features.nbytes + 4 * BLOCK_BYTES


@pytest.mark.parametrize("layout", LAYOUTS)
def test_features_in_one_block_take_less_than_four_times_their_size(layout: str) -> None:
    """With several threads, which share the operators of that block."""
    torch.set_num_threads(2)
    features, groups, mask = features_and_mask("from-scratch", layout)
    peak = peak_bytes(lambda: sum(channel_pool(features.requires_grad_(), groups, mask)).sum().backward())
    assert peak < features.nbytes + 4 * 4 * features.numel()


@pytest.mark.parametrize("per_sample", [False, True])
def test_forward_saves_its_arguments_the_softmax_and_the_winners(per_sample: bool) -> None:
    groups = ChannelGroups.split(64, 10)
    features = torch.randn(4, 64, 7, 7, dtype=torch.bfloat16, requires_grad=True)
    mask = sample_channel_mask(groups, batch_size=4 if per_sample else None)
    saved: dict[int, int] = {}

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        channel_pool(features, groups, mask)
    of_softmax, of_winners = 4 * features.numel(), 2 * 4 * 10 * 49
    assert sorted(saved.values()) == sorted([features.nbytes, mask.nbytes, of_softmax, of_winners])
