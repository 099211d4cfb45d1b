"""The mutual-channel loss for fine-grained image classification."""

from .attention import sample_channel_mask
from .groups import ChannelGroups
from .loss import MCLoss, MCLossOutput, mc_loss
from .maps import class_maps
from .pooling import ChannelPool, channel_pool, class_scores, diversity_scores

__version__ = "0.1.0"

__all__ = [
    "ChannelGroups",
    "ChannelPool",
    "MCLoss",
    "MCLossOutput",
    "channel_pool",
    "class_maps",
    "class_scores",
    "diversity_scores",
    "mc_loss",
    "sample_channel_mask",
]
