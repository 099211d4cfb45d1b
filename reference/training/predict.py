"""What is on an image: ``python -m reference predict IMAGE... --checkpoint CHECKPOINT``.

Images are taken whole, without what some data sets cut away: around the box of "cub-boxes", the banner of "aircraft".
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from ..datasets.images import read_picture
from ..model.network import MCNetwork
from .build import picture_transform
from .checkpoint import load_network

SHOWN = 5
"""Classes that are printed for each image."""


def main(arguments: list[str] | None = None) -> int:
    """Classify from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m reference predict",
        description=f"Print the {SHOWN} most probable classes of each image.",
    )
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="a file")
    parser.add_argument("--checkpoint", type=Path, required=True, help="written by reference train")
    options = parser.parse_args(arguments)
    try:
        network, settings, classes = load_network(options.checkpoint)
        transform = picture_transform(settings, training=False)
        for path in options.images:
            probabilities, indices = predict(network, transform(read_picture(path))).topk(min(SHOWN, len(classes)))
            print(path)
            for probability, index in zip(probabilities.tolist(), indices.tolist(), strict=True):
                print(f"{probability:8.1%}  {classes[index]}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


@torch.inference_mode()
def predict(network: MCNetwork, image: Tensor) -> Tensor:
    """The probability of each class, (C,), for an image (channels, H, W) as the network takes it."""
    logits: Tensor = network.eval()(image[None])
    return logits[0].softmax(dim=0)


if __name__ == "__main__":
    sys.exit(main())
