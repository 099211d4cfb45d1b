"""How good a network is on a data set, and how its channels behave there."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from mcl_triton import channel_pool

from .network import MCNetwork


@torch.inference_mode()
def evaluate(network: MCNetwork, dataset: Dataset[Any], batch_size: int) -> dict[str, float]:
    """Means over a data set in evaluation mode, whether or not the network was trained with MC-Loss.

    Returns:
        accuracy, from 0 to 1; cross_entropy of the classifier; discriminality, L_dis; diversity, L_div, from 1 to the
        mean ξ; diversity_fraction, the mean of h/ξ, from 1/ξ to 1. No channel is masked.
    """
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    channels = torch.tensor(network.groups.sizes, device=device)
    sums: dict[str, float] = {}
    for images, targets in DataLoader(dataset, batch_size):
        targets = targets.to(device)
        features = network.extract(images.to(device))
        logits = network.classify(features)
        scores, diversity = channel_pool(features, network.groups)
        of_batch = {
            "accuracy": (logits.argmax(dim=1) == targets).sum(),
            "cross_entropy": cross_entropy(logits, targets, reduction="sum"),
            "discriminality": cross_entropy(scores, targets, reduction="sum"),
            "diversity": diversity.mean(dim=1).sum(),
            "diversity_fraction": (diversity / channels).mean(dim=1).sum(),
        }
        sums = {name: sums.get(name, 0.0) + float(value) for name, value in of_batch.items()}
    network.train(was_training)
    return {name: total / len(dataset) for name, total in sums.items()}  # type: ignore[arg-type]
