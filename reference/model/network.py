"""The two-stream network of the paper: one feature extractor, a classifier with cross-entropy, and the MC-Loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mcl_triton import ChannelGroups, MCLoss, MCLossOutput


class MCNetwork(nn.Module):
    """Features whose channels belong to classes, trained by cross-entropy and MC-Loss.

    The first stream pools the features and classifies them; the second one, in training only, is the MC-Loss of the
    features themselves. The sum of both losses is what is minimised::

        logits, ce_loss, mc = network(images, targets)
        (ce_loss + mc.loss).backward()

    Args:
        features: any extractor, images -> (B, N, H, W), whose N channels are those of ``groups``.
        groups: which channels belong to which class.
        loss: the MC-Loss of the same groups, or what stands in its place; None for a network of cross-entropy alone.
        pooling: (B, N, H, W) -> (B, D), the input of the head; by default global max pooling, D = N.
        head: (B, D) -> logits (B, C); by default `classifier_head` for D = N.
        label_smoothing: of the classifier's cross-entropy in training.

    Raises:
        ValueError: ``loss`` is for other groups.
    """

    def __init__(
        self,
        features: nn.Module,
        groups: ChannelGroups,
        loss: MCLoss | AuxiliaryClassifier | None = None,
        *,
        pooling: nn.Module | None = None,
        head: nn.Module | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if loss is not None and loss.groups != groups:
            raise ValueError(f"the network and its loss must have the same groups; got {groups!r} and {loss.groups!r}.")
        self.features = features
        self.groups = groups
        self.loss = loss
        self.pooling = global_max_pooling() if pooling is None else pooling
        self.head = classifier_head(groups.num_channels, groups.num_classes) if head is None else head
        self.label_smoothing = label_smoothing

    def extract(self, images: Tensor) -> Tensor:
        """The features F, (B, N, H, W), whose channels belong to classes."""
        features: Tensor = self.features(images)
        if features.dim() != 4 or features.shape[1] != self.groups.num_channels:
            raise ValueError(
                f"the feature extractor must give (B, {self.groups.num_channels}, H, W) for {self.groups!r}; "
                f"got {tuple(features.shape)}. Either widen its last layer to {self.groups.num_channels} channels, or "
                "divide the channels that are there: ChannelGroups.split(num_channels, num_classes)."
            )
        return features

    def classify(self, features: Tensor) -> Tensor:
        """Features (B, N, H, W) -> logits (B, C)."""
        logits: Tensor = self.head(self.pooling(features))
        return logits

    def forward(
        self, images: Tensor, targets: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor] | tuple[Tensor, Tensor, MCLossOutput | AuxiliaryOutput | None]:
        """Classify a batch.

        Args:
            images: whatever the feature extractor takes.
            targets: class indices (B,) or class probabilities (B, C).
            mask: for the MC-Loss, (N,) or (B, N); None to draw one.

        Returns:
            In training ``(logits, ce_loss, MCLossOutput)``, the last one None for a network without MC-Loss; in
            evaluation ``(logits, ce_loss)``. In evaluation without targets the logits alone, (B, C), like any
            classifier.
        """
        if self.training and targets is None:
            raise ValueError("the network is in training mode and got no targets; call network.eval() for inference.")
        features = self.extract(images)
        logits = self.classify(features)
        if targets is None:
            return logits
        ce_loss = cross_entropy(logits, targets, label_smoothing=self.label_smoothing if self.training else 0.0)
        if not self.training:
            return logits, ce_loss
        return logits, ce_loss, None if self.loss is None else self.loss(features, targets, mask)


class AuxiliaryOutput(NamedTuple):
    """The output of `AuxiliaryClassifier`.

    Attributes:
        loss: weighted, a scalar.
        logits: (B, C).
    """

    loss: Tensor
    logits: Tensor


class AuxiliaryClassifier(nn.Module):
    """A control in place of the MC-Loss: weight · cross-entropy of a linear classifier of the mean-pooled features.

    Like L_dis it classifies the last feature map without the head; unlike it, every channel can serve every class.

    Args:
        groups: of the network; only their numbers of channels and classes count.
        weight: of the cross-entropy.
    """

    def __init__(self, groups: ChannelGroups, weight: float) -> None:
        super().__init__()
        self.groups = groups
        self.weight = weight
        self.linear = nn.Linear(groups.num_channels, groups.num_classes)

    def forward(self, features: Tensor, targets: Tensor, mask: Tensor | None = None) -> AuxiliaryOutput:
        """Features (B, N, H, W) and targets -> the loss; there is nothing to mask."""
        logits = self.linear(features.mean(dim=(2, 3)))
        return AuxiliaryOutput(self.weight * cross_entropy(logits, targets), logits)


def global_max_pooling() -> nn.Module:
    """(B, N, H, W) -> (B, N), the largest activation of each channel, as in the paper's ResNet."""
    return nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())


def global_mean_pooling() -> nn.Module:
    """(B, N, H, W) -> (B, N), the mean activation of each channel."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def classifier_head(num_inputs: int, num_classes: int, hidden: int = 512) -> nn.Module:
    """The paper's BN–FC–BN–ELU–FC, (B, num_inputs) -> (B, num_classes)."""
    return nn.Sequential(
        nn.BatchNorm1d(num_inputs),
        nn.Linear(num_inputs, hidden),
        nn.BatchNorm1d(hidden),
        nn.ELU(),
        nn.Linear(hidden, num_classes),
    )


def small_extractor(num_channels: int, image_channels: int = 1) -> nn.Module:
    """A convolutional network for small images, (B, image_channels, H, W) -> (B, num_channels, H/8, W/8)."""
    extractor = nn.Sequential(
        *_convolution(image_channels, 32, size=5, stride=2),
        nn.MaxPool2d(2),
        *_convolution(32, 64),
        *_convolution(64, 64),
        nn.MaxPool2d(2),
        *_convolution(64, num_channels),
    )
    return extractor.to(memory_format=torch.channels_last)  # pooling is faster there on a CPU


def _convolution(inputs: int, outputs: int, *, size: int = 3, stride: int = 1) -> tuple[nn.Module, ...]:
    # Batch norm follows and has its own bias.
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU()
