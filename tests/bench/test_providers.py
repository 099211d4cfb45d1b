"""Whoever computes another loss or another gradient than the oracle is caught before being timed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bench.cases import Case, real_cases, sweeps
from bench.providers import Inputs, Loss, Provider, oracle, plain, providers, verdict_on
from mcl_triton import ChannelGroups

CPU = torch.device("cpu")
UNIFORM, RAGGED = ChannelGroups.uniform(6, 3), ChannelGroups.split(20, 6)
EVERYONE = [one for one in providers(CPU, compiled=False) if one.name != "Holocron"]


def small(groups: ChannelGroups = UNIFORM, dtype: torch.dtype = torch.float32, layout: str = "contiguous") -> Inputs:
    return Inputs.of(Case(4, groups, 5, dtype, layout))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [UNIFORM, RAGGED], ids=["uniform", "ragged"])
@pytest.mark.parametrize("provider", EVERYONE, ids=lambda provider: provider.name)
def test_everyone_agrees_with_the_oracle(
    provider: Provider, groups: ChannelGroups, dtype: torch.dtype, layout: str
) -> None:
    inputs = small(groups, dtype, layout)
    verdict = verdict_on(provider, inputs, oracle(inputs))
    assert verdict.mistake is None
    assert verdict.error is not None
    assert verdict.error < (1e-6 if dtype == torch.float32 else 0.05)


def without_mask(features: Tensor, targets: Tensor, mask: Tensor, groups: ChannelGroups) -> Tensor:
    return plain(features, targets, torch.ones_like(mask), groups)


def tampered(change: Callable[[Tensor], Tensor]) -> Loss:
    """The right loss, and a gradient that was changed."""

    def loss(features: Tensor, targets: Tensor, mask: Tensor, groups: ChannelGroups) -> Tensor:
        copy = features * 1
        copy.register_hook(change)
        return plain(copy, targets, mask, groups)

    return loss


def one_channel_off(grad: Tensor) -> Tensor:
    grad = grad.clone()
    grad[0, 1] *= 1.01
    return grad


def not_a_number(grad: Tensor) -> Tensor:
    return torch.full_like(grad, torch.nan)


@pytest.mark.parametrize(
    ("loss", "mistake", "error"),
    [
        (without_mask, r"its loss is \S+, that of the oracle", None),
        (tampered(lambda grad: -grad), r"gradient is off by 200\.00%, in 100\.00% of the channels", 2.0),
        (tampered(one_channel_off), r"gradient is off by \S+%, in 1\.39% of the channels", None),
        (tampered(not_a_number), r"gradient is off by inf%, in 100\.00% of", math.inf),
    ],
)
def test_who_is_wrong_is_caught(loss: Loss, mistake: str, error: float | None) -> None:
    inputs = small()
    verdict = verdict_on(Provider("wrong", loss), inputs, oracle(inputs))
    assert verdict.mistake is not None
    assert re.search(mistake, verdict.mistake), verdict.mistake
    assert error is None or verdict.error == pytest.approx(error, rel=1e-3)


def last_channel(value: float) -> Callable[[Tensor], Tensor]:
    def change(grad: Tensor) -> Tensor:
        grad = grad.clone()
        grad[:, -1] = value
        return grad

    return change


def without_small_ones(grad: Tensor) -> Tensor:
    return torch.where(grad.abs() < 0.1 * grad.abs().max(), 0, grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "change", [last_channel(math.nan), last_channel(1e3), without_small_ones, lambda grad: 1.1 * grad]
)
def test_a_wrong_gradient_is_caught_among_2048_channels_too(
    dtype: torch.dtype, change: Callable[[Tensor], Tensor]
) -> None:
    inputs = Inputs.of(Case(4, ChannelGroups.split(2048, 200), 7, dtype))
    verdict = verdict_on(Provider("wrong", tampered(change)), inputs, oracle(inputs))
    assert verdict.mistake is not None
    assert "gradient is off" in verdict.mistake


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-4), (torch.bfloat16, 0.02)])
def test_a_loss_that_is_a_little_off_is_caught_in_every_dtype(dtype: torch.dtype, error: float) -> None:
    def nearly(features: Tensor, targets: Tensor, mask: Tensor, groups: ChannelGroups) -> Tensor:
        return plain(features.float(), targets, mask, groups) * (1 + error)

    inputs = small(dtype=dtype)
    mistake = verdict_on(Provider("nearly", nearly), inputs, oracle(inputs)).mistake
    assert mistake is not None
    assert "its loss is" in mistake


def test_who_takes_no_mask_is_compared_with_the_loss_without_one() -> None:
    inputs = small()
    unmasked = Provider("unmasked", without_mask, takes_masks=False)
    assert verdict_on(unmasked, inputs, oracle(inputs, masks=False)).mistake is None
    assert verdict_on(unmasked, inputs, oracle(inputs)).mistake is not None


def test_compiled_providers_join_when_asked() -> None:
    mine = Provider("mine", plain)
    names = [one.label for one in providers(CPU, compiled=True, own=(mine,)) if one.name != "Holocron"]
    eager = ["ours, eager", "official", "plain", "mine"]
    assert names == eager + [f"{name}, compiled" for name in eager]


def test_the_kernels_join_and_come_first_on_a_gpu() -> None:
    names = [one.label for one in providers(torch.device("cuda"), compiled=True)]
    assert names[0] == "ours, triton"
    assert "ours, triton, compiled" in names


# The groups as the paper's table has them, and the maps of the usual input sizes.
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("CUB, from scratch, 224 pixels", "32x600x14x14 (200x3)"),
        ("CUB, ResNet50, 448 pixels", "32x2048x14x14 (152x10 + 48x11)"),
        ("CUB, VGG16 or ResNet18, 224 pixels", "32x512x7x7 (88x2 + 112x3)"),
        ("Aircraft, VGG16 or ResNet18, 448 pixels", "32x512x14x14 (88x5 + 12x6)"),
        ("Cars, ResNet50, 224 pixels", "32x2048x7x7 (108x10 + 88x11)"),
        ("Cars, from scratch, 224 pixels", "32x588x14x14 (196x3)"),
        ("Flowers, ResNet50, 448 pixels", "32x2048x14x14 (94x20 + 8x21)"),
    ],
)
def test_real_shapes(name: str, shape: str) -> None:
    case = real_cases()[name]
    assert (case.shape, case.name) == (shape, name)
    facts = case.facts
    assert f"{facts['data_set']}, {facts['network']}, {facts['pixels']} pixels" == name
    assert "{samples}x{channels}x{side}x{side} ({groups})".format(**facts) == shape


def test_features_of_no_network_are_called_by_their_shape() -> None:
    assert Case(32, ChannelGroups.uniform(5, 1), 7).name == "32x5x7x7 (5x1)"


def test_sweeps_change_one_dimension_by_a_factor_of_64_or_more() -> None:
    for sizes in sweeps().values():
        smallest, largest = sizes[min(sizes)], sizes[max(sizes)]
        assert largest.nbytes == smallest.nbytes * max(sizes) // min(sizes) >= 64 * smallest.nbytes
    assert max(sweeps()["classes, C"]) == 10_000


def test_features_are_what_the_case_says() -> None:
    case = Case(4, RAGGED, 5, torch.bfloat16, "channels_last")
    features = case.features()
    assert (features.shape, features.dtype, features.nbytes) == ((4, 20, 5, 5), torch.bfloat16, case.nbytes)
    assert features.is_contiguous(memory_format=torch.channels_last)
    assert not features.is_contiguous()
    assert torch.equal(features, replace(case, layout="contiguous").features())
    assert not torch.equal(features, case.features(seed=1))
