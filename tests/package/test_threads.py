"""The result does not depend on how many threads compute it, nor do ties."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mcl_triton import ChannelGroups, channel_pool, mc_loss, sample_channel_mask

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.fixture(params=[1, 2, 3, 4], ids="{} threads".format)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(32, 30, 28, 28), (20, 40, 7, 7), (8, 200, 14, 14)], ids=str)
def test_the_first_of_identical_channels_takes_the_whole_gradient(
    threads: int, layout: str, shape: tuple[int, ...]
) -> None:
    batch, classes, height, width = shape
    own = torch.randn(batch, classes, 1, height, width)
    features = own.expand(-1, -1, 3, -1, -1).flatten(1, 2).contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
    pooled = channel_pool(features, ChannelGroups.uniform(classes, 3))
    of_diversity, of_scores = (
        torch.autograd.grad(output.sum(), features, retain_graph=True)[0] for output in pooled[::-1]
    )
    # A channel that wins nowhere has no gradient; the one that wins everywhere has w = 1, the sum of its softmax.
    assert (of_diversity.unflatten(1, (classes, 3))[:, :, 1:] == 0).all()
    assert of_diversity.abs().max() < 1e-6
    assert (of_scores.unflatten(1, (classes, 3))[:, :, 1:] == 0).all()
    torch.testing.assert_close(of_scores[:, ::3], torch.full_like(of_scores[:, ::3], 1 / (height * width)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("groups", [ChannelGroups.uniform(200, 3), ChannelGroups.split(512, 200)], ids=str)
def test_any_number_of_threads_gives_the_same(threads: int, layout: str, groups: ChannelGroups) -> None:
    features = torch.randn(44, groups.num_channels, 14, 14).relu().contiguous(memory_format=LAYOUTS[layout])
    targets, mask = torch.randint(groups.num_classes, (44,)), sample_channel_mask(groups)

    def loss_and_gradient() -> tuple[Tensor, Tensor]:
        leaf = features.detach().requires_grad_()
        loss = mc_loss(leaf, targets, groups, mask=mask).loss
        return loss.detach(), torch.autograd.grad(loss, leaf)[0]

    found = loss_and_gradient()
    torch.set_num_threads(1)
    torch.testing.assert_close(found, loss_and_gradient(), rtol=1e-5, atol=1e-9)


def test_a_forked_process_starts_threads_of_its_own() -> None:
    """A fork, like a worker of a `DataLoader`, does not have the parent's threads."""
    script = """
import os, torch
from mcl_triton import ChannelGroups, channel_pool
torch.set_num_threads(2)
features, groups = torch.rand(192, 30, 28, 28), ChannelGroups.uniform(10, 3)  # many blocks
expected = channel_pool(features, groups)
if child := os.fork():
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os._exit(0 if torch.equal(channel_pool(features, groups).scores, expected.scores) else 1)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
