"""The base networks of the paper, ready to train: VGG16, ResNet18, ResNet50, B-CNN, and any other backbone.

network = base_network("resnet50", 200, weights="DEFAULT", loss=MCLoss)
optimizer = SGD(parameter_groups(network, backbone=0.01, head=0.1), momentum=0.9, weight_decay=5e-4)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import normalize

from mcl_triton import ChannelGroups, MCLoss

from .backbones import IMAGE_SHAPE, count_channels, torchvision_backbone, widened_backbone
from .names import B_CNN
from .network import AuxiliaryClassifier, MCNetwork, classifier_head, global_max_pooling


def base_network(
    backbone: str | nn.Module,
    num_classes: int,
    *,
    channels_per_class: int | None = None,
    weights: str | Path | None = None,
    loss: MCLoss | Callable[[ChannelGroups], MCLoss | AuxiliaryClassifier] | None = None,
    image_shape: tuple[int, int, int] = IMAGE_SHAPE,
) -> MCNetwork:
    """A network whose feature channels belong to classes; which to which, is in its ``groups``.

    Args:
        backbone: the name of a network of torchvision, "bcnn" for VGG16 with bilinear pooling, or any module,
            images -> (B, N, H, W).
        num_classes: C.
        channels_per_class: None to split the backbone's own channels among the classes, as with pretrained weights; or
            ξ, to train from scratch with a last stage widened to C·ξ channels, for "vgg16_bn", which is the VGG16 of
            the paper's code, and "resnet18".
        weights: of a backbone with a name: one of torchvision's, such as "DEFAULT" or "IMAGENET1K_V1", which are
            downloaded; a file with its state_dict; or None for random ones.
        loss: the MC-Loss of the groups, or what makes one of them, for example `MCLoss` itself; None for a network of
            cross-entropy alone.
        image_shape: (image channels, H, W) of an image to find N with, if a module takes no (3, 224, 224).

    Raises:
        ValueError: there is no such network, it cannot be widened, the weights are not for it, or it has fewer channels
            than classes.
    """
    if channels_per_class is not None:
        if weights is not None or not isinstance(backbone, str):
            raise ValueError(
                "channels_per_class widens a network by name, with random weights; it goes with no weights and no "
                "module. Leave it out to split the channels that are there among the classes."
            )
        groups = ChannelGroups.uniform(num_classes, channels_per_class)
        features = widened_backbone(backbone, groups.num_channels)
    else:
        features = _own_features(backbone, weights)
        groups = ChannelGroups.split(count_channels(features, image_shape), num_classes)
    pooling, head = _classifier(backbone, groups.num_channels, num_classes)
    mc_loss = loss if loss is None or isinstance(loss, MCLoss) else loss(groups)
    return MCNetwork(features, groups, mc_loss, pooling=pooling, head=head)


def parameter_groups(network: MCNetwork, *, backbone: float, head: float) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser that trains the backbone and all that is new at two learning rates.

    Args:
        network: whose parameters to divide.
        backbone: the learning rate of ``network.features``.
        head: the learning rate of everything else.
    """
    of_backbone = list(network.features.parameters())
    known = set(of_backbone)
    others = [parameter for parameter in network.parameters() if parameter not in known]
    return [{"params": of_backbone, "lr": backbone}, {"params": others, "lr": head}]


class BilinearPooling(nn.Module):
    """B-CNN's pooling, (B, N, H, W) -> (B, N²): how strongly each two channels are active together.

    The mean over positions of the outer product of the features with themselves, its signed square root, scaled to
    length 1. Source: Lin, RoyChowdhury and Maji, "Bilinear CNN Models for Fine-Grained Visual Recognition",
    ICCV 2015.
    """

    def forward(self, features: Tensor) -> Tensor:
        maps = features.flatten(2)
        maps = maps / maps.shape[2] ** 0.5  # before the product, whose sum could leave the range of float16
        products = (maps @ maps.transpose(1, 2)).flatten(1)
        # Without the constant, the derivative is infinite for channels that are never active together.
        roots = products.sign() * (products.abs() + 1e-5).sqrt()
        return normalize(roots)


def _own_features(backbone: str | nn.Module, weights: str | Path | None) -> nn.Module:
    if isinstance(backbone, str):
        if backbone == B_CNN:  # the map that its authors take
            return torchvision_backbone("vgg16", weights, before_max_pooling=True)
        return torchvision_backbone(backbone, weights)
    if weights is not None:
        raise ValueError("weights are for a backbone with a name; load those of a module before you give it.")
    return backbone


def _classifier(backbone: str | nn.Module, num_channels: int, num_classes: int) -> tuple[nn.Module, nn.Module]:
    """The pooling and the head that go with a backbone."""
    if backbone == B_CNN:
        return BilinearPooling(), nn.Linear(num_channels**2, num_classes)
    if isinstance(backbone, str) and backbone.startswith("vgg"):
        # To 7×7, which is the paper's max pooling by 2 for its 14×14 map, and fits one head to images of any size.
        pooling = nn.Sequential(nn.AdaptiveMaxPool2d(7), nn.Flatten())
        return pooling, classifier_head(num_channels * 7 * 7, num_classes)
    return global_max_pooling(), classifier_head(num_channels, num_classes)
