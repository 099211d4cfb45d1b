"""What the settings of a run stand for: its data sets and its network."""

from __future__ import annotations

from functools import partial

import torch
from torchvision.transforms import InterpolationMode, v2

from mcl_triton import ChannelGroups, MCLoss

from ..datasets import DATASETS, Labelled, Transform, faces, load, transforms
from ..model import base_networks
from ..model.network import MCNetwork, small_extractor
from .batches import derived_seed
from .settings import SMALL, Settings


def load_data(settings: Settings) -> tuple[Labelled, Labelled]:
    """The training and the test set, each with the names of its ``classes``."""
    if settings.dataset == "faces":
        return faces.split(settings.training_photos, settings.seed)
    return (
        load(settings.dataset, _root(settings), "train", picture_transform(settings, training=True)),
        load_test_data(settings),
    )


def load_test_data(settings: Settings) -> Labelled:
    """The test set alone."""
    if settings.dataset == "faces":
        return load_data(settings)[1]
    return load(settings.dataset, _root(settings), "test", picture_transform(settings, training=False))


def picture_transform(settings: Settings, *, training: bool) -> Transform:
    """From a picture to what the network takes; random in training."""
    if settings.dataset == "faces":  # whose augmentation is their own
        return v2.Compose(
            [
                v2.Grayscale(),
                v2.Resize((faces.HEIGHT, faces.WIDTH), interpolation=InterpolationMode.BOX),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize([0.5], [0.5]),
            ]
        )
    of_name = {"from_scratch": transforms.from_scratch, "pretrained": transforms.pretrained}
    return of_name[settings.transform](training=training)


def build_network(settings: Settings, num_classes: int = faces.NUM_PEOPLE) -> MCNetwork:
    """The network with the initial weights of the seed, those of the backbone pretrained if the settings say so."""
    torch.manual_seed(derived_seed(settings.seed, "weights"))
    make_loss = partial(MCLoss, drop=settings.drop, convention=settings.convention, weights=settings.weights)
    loss = make_loss if any(settings.weights) else None
    if settings.backbone == SMALL:
        groups = ChannelGroups.uniform(num_classes, settings.channels_per_class)
        features = small_extractor(groups.num_channels, image_channels=1 if settings.dataset == "faces" else 3)
        return MCNetwork(features, groups, None if loss is None else loss(groups))
    return base_networks.base_network(
        settings.backbone,
        num_classes,
        channels_per_class=settings.channels_per_class or None,
        weights=settings.backbone_weights or None,
        loss=loss,
    )


def _root(settings: Settings) -> str:
    if not settings.data:
        raise ValueError(
            f"{settings.dataset} needs --data, the folder that holds its files:\n{DATASETS[settings.dataset].layout}"
        )
    return settings.data
