"""Accuracy of a network on a data set, and the measures of its channels there."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, Subset

from mcl_triton import channel_pool

from ..channels.overlap import channel_overlap
from ..model.network import MCNetwork
from . import distributed
from .interrupt import ignore_interrupt

MEASURES = ("accuracy", "cross_entropy", "discriminality", "diversity", "diversity_fraction", "overlap")

NOT_SUCCESS = "Diversity and overlap do not measure success by themselves: a diverged network can have the best."
"""A sentence to print beside these measures."""

_COUNTED = (*MEASURES, "images_with_overlap")


@torch.inference_mode()
def evaluate(network: MCNetwork, dataset: Dataset[Any], batch_size: int, *, workers: int = 0) -> dict[str, float]:
    """Means over a data set in evaluation mode, whether or not the network was trained with MC-Loss.

    Where several processes train together, each measures its share of the images and all get the means over every one.

    Args:
        network: on the device it is on.
        dataset: of (image, class index).
        batch_size: images at a time, of all processes together.
        workers: processes that read ahead.

    Returns:
        accuracy, from 0 to 1; cross_entropy of the classifier; discriminality, L_dis; diversity, L_div, from 1 to the
        mean ξ; diversity_fraction, the mean of h/ξ, from 1/ξ to 1; overlap, see `channel_overlap`, from 0 to 1, of the
        images that have one, NaN where none has. No channel is masked.
    """
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    channels = torch.tensor(network.groups.sizes, device=device)
    size: int = len(dataset)  # type: ignore[arg-type]
    share = Subset(dataset, range(distributed.rank(), size, distributed.size()))
    loader = DataLoader(
        share,
        max(1, batch_size // distributed.size()),
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=ignore_interrupt,
    )
    of_batches = []  # stay on the device until the end, so that nothing waits for it
    for images, targets in loader:
        targets = targets.to(device, non_blocking=True)
        features = network.extract(images.to(device, non_blocking=True))
        logits = network.classify(features)
        scores, diversity = channel_pool(features, network.groups)
        overlap = channel_overlap(features, network.groups, targets)
        of_batch = {
            "accuracy": (logits.argmax(dim=1) == targets).sum(),
            "cross_entropy": cross_entropy(logits, targets, reduction="sum"),
            "discriminality": cross_entropy(scores, targets, reduction="sum"),
            "diversity": diversity.mean(dim=1).sum(),
            "diversity_fraction": (diversity / channels).mean(dim=1).sum(),
            "overlap": overlap.nansum(),
            "images_with_overlap": (~overlap.isnan()).sum(),
        }
        of_batches.append(torch.stack([of_batch[name].float() for name in _COUNTED]))
    network.train(was_training)
    rows = torch.stack(of_batches).tolist() if of_batches else []
    *sums, with_overlap = distributed.total([sum(row[column] for row in rows) for column in range(len(_COUNTED))])
    counts = [*(size for _ in MEASURES[:-1]), with_overlap]
    return {
        name: total / count if count else math.nan for name, total, count in zip(MEASURES, sums, counts, strict=True)
    }
