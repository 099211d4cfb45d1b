"""Classifying images: ``python -m reference predict IMAGE... --checkpoint CHECKPOINT``.

Images are taken whole: the box of "cub-boxes" and the banner of "aircraft" are not cut.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..commands import Predict
from ..datasets.images import read_picture
from ..model.network import MCNetwork
from .build import picture_transform
from .checkpoint import load_network

SHOWN = 5
"""Classes that are printed for each image."""


def main(options: Predict) -> None:
    """Print the most probable classes of each image."""
    network, settings, classes = load_network(options.checkpoint)
    transform = picture_transform(settings, training=False)
    for path in options.images:
        probabilities, indices = predict(network, transform(read_picture(path))).topk(min(SHOWN, len(classes)))
        print(path)
        for probability, index in zip(probabilities.tolist(), indices.tolist(), strict=True):
            print(f"{probability:8.1%}  {classes[index]}")


@torch.inference_mode()
def predict(network: MCNetwork, image: Tensor) -> Tensor:
    """The probability of each class, (C,), for an image (channels, H, W) as the network takes it."""
    logits: Tensor = network.eval()(image[None])
    return logits[0].softmax(dim=0)
