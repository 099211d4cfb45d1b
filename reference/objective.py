"""What training minimises, as one module: what is compiled, and what is spread over several GPUs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mcl_triton import sample_channel_mask

from .network import MCNetwork


class Objective(nn.Module):
    """Both streams of a network in training, for a mask that is drawn outside.

    All parts of a batch, in whichever process, must have the same mask; a loss that drew its own would give each part
    another one.
    """

    def __init__(self, network: MCNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, targets: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Images and class indices (B,) -> logits (B, C), and the loss, a scalar."""
        features = self.network.extract(images)
        logits = self.network.classify(features)
        loss = cross_entropy(logits, targets)
        if self.network.loss is not None:
            loss = loss + self.network.loss(features, targets, mask).loss
        return logits, loss


def draw_mask(network: MCNetwork, device: torch.device) -> Tensor | None:
    """The mask that the network's MC-Loss would draw next, (N,); None where it masks nothing."""
    loss = network.loss
    if loss is None or loss.drop == 0:
        return None
    return sample_channel_mask(loss.groups, drop=loss.drop, device=device, backend=loss.backend)
