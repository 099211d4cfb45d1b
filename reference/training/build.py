"""Data sets and network of a run, from its settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from mcl_triton import ChannelGroups, MCLoss

from ..datasets import Labelled, Transform, load
from ..datasets.transforms import IMAGE_CHANNELS, PIPELINES
from ..model import base_networks
from ..model.names import SMALL
from ..model.network import (
    AuxiliaryClassifier,
    MCNetwork,
    classifier_head,
    global_max_pooling,
    global_mean_pooling,
    small_extractor,
)
from .batches import derived_seed
from .settings import Settings


def load_data(settings: Settings) -> tuple[Labelled, Labelled]:
    """The training and the test set, each with the names of its ``classes``."""
    return _load(settings, "train"), load_test_data(settings)


def load_test_data(settings: Settings) -> Labelled:
    """The test set alone."""
    return _load(settings, "test")


def picture_transform(settings: Settings, *, training: bool) -> Transform:
    """From a picture to what the network takes; random in training."""
    return PIPELINES[settings.transform](training=training)


def build_network(settings: Settings, num_classes: int) -> MCNetwork:
    """The network with the initial weights of the seed, those of the backbone pretrained if the settings say so."""
    torch.manual_seed(derived_seed(settings.seed, "weights"))
    loss: Callable[[ChannelGroups], MCLoss | AuxiliaryClassifier] | None = None
    if any(settings.weights):
        loss = partial(MCLoss, drop=settings.drop, convention=settings.convention, weights=settings.weights)
    elif settings.auxiliary:
        loss = partial(AuxiliaryClassifier, weight=settings.auxiliary)
    if settings.backbone == SMALL:
        groups = ChannelGroups.uniform(num_classes, settings.channels_per_class)
        features = small_extractor(groups.num_channels, IMAGE_CHANNELS[settings.transform])
        pooling = global_mean_pooling() if settings.pooling == "mean" else global_max_pooling()
        # The head before the loss, so that all losses start from the same weights.
        head = classifier_head(groups.num_channels, num_classes)
        network = MCNetwork(features, groups, loss and loss(groups), pooling=pooling, head=head)
    else:
        network = base_networks.base_network(
            settings.backbone,
            num_classes,
            channels_per_class=settings.channels_per_class or None,
            weights=settings.backbone_weights or None,
            loss=loss,
        )
    network.label_smoothing = settings.label_smoothing
    return network


def _load(settings: Settings, split: str) -> Labelled:
    transform = picture_transform(settings, training=split == "train")
    return load(settings.dataset, settings.data or None, split, transform, seed=settings.seed)
