"""The paper's equations in the plainest PyTorch there is: the oracle that everything else is compared with.

Nothing here is fast and nothing is shared with `mcl_triton`. It works in any floating dtype, float64 included; autograd
derives the gradient. Source: Chang et al., "The Devil is in the Channels: Mutual-Channel Loss for Fine-Grained Image
Classification", IEEE TIP 2020, arXiv 2002.04264.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def channel_pool(features: Tensor, sizes: Sequence[int], mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Class scores g and diversity scores h, class by class, for i a class, j its channels and k the P positions.

        g[b, i] = 1/P · Σ_k max_j M[b, j] · F[b, j, k]
        h[b, i] =       Σ_k max_j softmax_k(F[b, j, :])[k]

    Args:
        features: F, (B, N, H, W) or (B, N, P).
        sizes: ξ_i, the channels of each class; they sum to N.
        mask: M, (N,) or (B, N), of 0 and 1; None keeps every channel.

    Returns:
        g and h, each (B, C) in the dtype of the features.
    """
    features = features.flatten(2)  # (B, N, P)
    attended = features  # M·F
    if mask is not None:
        attended = features * mask.to(features.dtype).unsqueeze(-1)
    attention = torch.softmax(features, dim=2)  # softmax over the spatial positions
    # max(dim) sends the whole gradient to one index; amax would split it among ties. Which of several equal values it
    # picks is checked in the tests: the first.
    by_class = attended.split(list(sizes), dim=1)
    scores = [own.max(dim=1).values.mean(dim=1) for own in by_class]  # CWA, CCMP, GAP
    by_class = attention.split(list(sizes), dim=1)
    diversity = [own.max(dim=1).values.sum(dim=1) for own in by_class]  # CCMP, sum
    return torch.stack(scores, dim=1), torch.stack(diversity, dim=1)


def discriminality(scores: Tensor, targets: Tensor) -> Tensor:
    """L_dis: cross-entropy of the class scores g, (B, C), and the targets, (B,)."""
    return cross_entropy(scores, targets)


def paper_loss(
    features: Tensor, targets: Tensor, sizes: Sequence[int], mask: Tensor | None, mu: float, lam: float
) -> Tensor:
    """μ·(L_dis − λ·L_div): what the paper adds to the cross-entropy of the classifier."""
    scores, diversity = channel_pool(features, sizes, mask)
    return mu * (discriminality(scores, targets) - lam * diversity.mean())


def official_loss(
    features: Tensor, targets: Tensor, sizes: Sequence[int], mask: Tensor | None, alpha: float, beta: float
) -> Tensor:
    """α·L_dis + β·(1 − mean h/ξ), the convention of the authors' code, for groups of any sizes."""
    scores, diversity = channel_pool(features, sizes, mask)
    fraction = diversity / torch.tensor(sizes, dtype=diversity.dtype, device=diversity.device)
    return alpha * discriminality(scores, targets) + beta * (1 - fraction.mean())
