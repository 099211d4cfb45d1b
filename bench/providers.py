"""The implementations of the loss to compare, and the check that each one computes it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mcl_triton import ChannelGroups, mc_loss, sample_channel_mask
from reference.formulas import official as official_code
from reference.formulas.paper import official_loss

from .cases import Case

Loss = Callable[[Tensor, Tensor, Tensor, ChannelGroups], Tensor]
"""(features, targets, mask, groups) -> α·L_dis + β·(1 − mean h/ξ), with the weights α = 1.5, β = 20."""


@dataclass(frozen=True)
class Inputs:
    """The arguments of every provider for a case, on one device: features, targets (B,) and a mask (N,)."""

    case: Case
    features: Tensor
    targets: Tensor
    mask: Tensor

    @staticmethod
    def of(case: Case, device: torch.device | str = "cpu", seed: int = 0) -> Inputs:
        """The case's random features and targets, and a mask that drops half of each class's channels."""
        mask = sample_channel_mask(case.groups, generator=torch.Generator().manual_seed(seed))
        return Inputs(case, *(tensor.to(device) for tensor in (case.features(seed), case.targets(), mask)))

    def forward(self, loss: Loss) -> tuple[Tensor, Tensor]:
        """The loss, and the leaf that its gradient belongs to."""
        leaf = self.features.detach().requires_grad_()
        return loss(leaf, self.targets, self.mask, self.case.groups), leaf

    def step(self, loss: Loss) -> tuple[Tensor, Tensor]:
        """Forward and backward: the loss and the gradient of the features."""
        value, leaf = self.forward(loss)
        (grad,) = torch.autograd.grad(value, leaf)
        return value.detach(), grad


@dataclass(frozen=True)
class Provider:
    """An implementation of the loss.

    Attributes:
        name: "ours", "official", "plain" or another.
        loss: the function that computes it.
        backend: of ours, "eager" or "triton".
        compiled: by `torch.compile`.
        takes_masks: False for one that takes no mask; it is compared with the loss without one.
        takes_ragged_groups: False for one that needs equally many channels in every class.
    """

    name: str
    loss: Loss
    backend: str = ""
    compiled: bool = False
    takes_masks: bool = True
    takes_ragged_groups: bool = True

    @property
    def facts(self) -> dict[str, str | bool]:
        """The columns of a result that describe the implementation."""
        return {"provider": self.name, "backend": self.backend, "compiled": self.compiled}

    @property
    def label(self) -> str:
        """Name in tables and figures, for example "ours, triton, compiled"."""
        return label(self.name, self.backend, self.compiled)


def label(provider: str, backend: str, compiled: bool) -> str:
    """Name of an implementation in tables and figures, for example "ours, triton, compiled"."""
    return ", ".join([provider, *[backend] * bool(backend), *["compiled"] * compiled])


def official(features: Tensor, targets: Tensor, mask: Tensor, groups: ChannelGroups) -> Tensor:
    """The published formula, with `max_pool2d` across the channels; for ragged groups, once per size."""
    mask = mask.to(features.dtype)
    if groups.is_uniform:
        return official_code.loss(features, targets, groups.sizes[0], mask)
    return official_code.ragged_loss(features, targets, groups.runs, mask)


def plain(features: Tensor, targets: Tensor, mask: Tensor, groups: ChannelGroups) -> Tensor:
    """The obvious implementation: the two reductions by `max(dim)`, the gradient by autograd."""
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


def ours_eager(features: Tensor, targets: Tensor, mask: Tensor, groups: ChannelGroups) -> Tensor:
    """`mcl_triton.mc_loss` in plain PyTorch."""
    return mc_loss(features, targets, groups, mask=mask, backend="eager").loss


def ours_triton(features: Tensor, targets: Tensor, mask: Tensor, groups: ChannelGroups) -> Tensor:
    """`mcl_triton.mc_loss` with the kernels."""
    return mc_loss(features, targets, groups, mask=mask, backend="triton").loss


def holocron(features: Tensor, targets: Tensor, mask: Tensor, groups: ChannelGroups) -> Tensor:
    """`mutual_channel_loss` of Holocron (pip install pylocron), with weights that equal ours.

    It takes a target per position, and the mean of h over the positions where others take the sum.
    """
    from holocron.nn.functional import mutual_channel_loss  # type: ignore[import-not-found]

    size = groups.sizes[0]
    everywhere = targets[:, None, None].expand(-1, *features.shape[2:])
    alpha = 20 / 1.5 / size * features.shape[2:].numel()
    return 1.5 * mutual_channel_loss(features, everywhere, xi=size, alpha=alpha, training=False) + 20


OURS = {"eager": Provider("ours", ours_eager, "eager"), "triton": Provider("ours", ours_triton, "triton")}
FORMULAS = (Provider("official", official), Provider("plain", plain))


def providers(device: torch.device, *, compiled: bool, own: tuple[Provider, ...] = ()) -> tuple[Provider, ...]:
    """Providers that can run on a device, ours first: the first is what the others are compared with.

    Args:
        device: of the features.
        compiled: with `torch.compile` of each, besides.
        own: further ones.
    """
    ours = [OURS["triton"]] * (device.type == "cuda") + [OURS["eager"]]
    found = [*ours, *FORMULAS, *own]
    if compiled:
        found += [replace(one, loss=torch.compile(one.loss), compiled=True) for one in found]
    if find_spec("holocron"):
        found.append(Provider("Holocron", holocron, takes_masks=False, takes_ragged_groups=False))
    return tuple(found)


@dataclass(frozen=True)
class Verdict:
    """The comparison of a provider with the oracle.

    Attributes:
        mistake: the first disagreement, as text; None without one.
        error: ‖dF − true dF‖ / ‖true dF‖, infinite for NaN; None for a provider that raised an exception.
    """

    mistake: str | None
    error: float | None


def oracle(inputs: Inputs, masks: bool = True) -> tuple[Tensor, Tensor]:
    """Loss and gradient by the paper's equations, in float64, on the CPU."""

    def loss(features: Tensor, targets: Tensor, mask: Tensor, groups: ChannelGroups) -> Tensor:
        return official_loss(features, targets, groups.sizes, mask if masks else None, alpha=1.5, beta=20.0)

    exact = Inputs(inputs.case, inputs.features.double().cpu(), inputs.targets.cpu(), inputs.mask.double().cpu())
    return exact.step(loss)


def verdict_on(provider: Provider, inputs: Inputs, truth: tuple[Tensor, Tensor]) -> Verdict:
    """Compare a provider's loss and gradient with the oracle's."""
    try:
        value, grad = (result.cpu() for result in inputs.step(provider.loss))
    except Exception as error:  # whatever the code of others raises
        return Verdict(f"{type(error).__name__}: {error}", None)
    true_value, true_grad = truth
    difference = grad - true_grad
    error = (difference.norm() / true_grad.norm()).nan_to_num(math.inf).item()
    eps, eps_float32 = torch.finfo(inputs.case.dtype).eps, torch.finfo(torch.float32).eps
    # In 16 bits the formulas round every intermediate result: single gradients are off by up to 12 eps, all by 0.03.
    # Where rounding makes two channels of a group equal, the dtype decides which one wins, and both gradients with it.
    # Such channels are few; all others have to agree.
    loss_tolerance, tolerance = max(64 * eps_float32, 2 * eps), max(64 * eps_float32, 16 * eps)
    agrees = difference.abs() <= tolerance * (true_grad.abs() + true_grad.abs().max())  # NaN does not
    channels_off = 1 - agrees.flatten(2).all(dim=2).double().mean().item()
    mistake = None
    if not torch.allclose(value.double(), true_value, rtol=loss_tolerance):
        mistake = f"its loss is {value.item():.6g}, that of the oracle {true_value.item():.6g}"
    elif error > max(2e-3, 6 * eps) or channels_off > 1e-2:
        mistake = f"its gradient is off by {error:.2%}, in {channels_off:.2%} of the channels"
    return Verdict(mistake, error)
