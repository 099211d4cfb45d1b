"""The two reductions and their gradient in plain PyTorch, for the CPU."""

from __future__ import annotations

import torch
from torch import Tensor


def _runs(runs: list[int]) -> list[tuple[slice, slice, int]]:
    out, c, n = [], 0, 0
    for classes, size in zip(runs[::2], runs[1::2], strict=True):
        out.append((slice(c, c + classes), slice(n, n + classes * size), size))
        c, n = c + classes, n + classes * size
    return out


def forward(features: Tensor, runs: list[int], mask: Tensor | None) -> tuple[Tensor, Tensor]:
    x = features.flatten(2)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    s = x.softmax(-1)
    a = x if mask is None else x * mask.unsqueeze(-1)
    g = torch.cat([a[:, n].unflatten(1, (-1, z)).amax(2).mean(-1) for _, n, z in _runs(runs)], 1)
    h = torch.cat([s[:, n].unflatten(1, (-1, z)).amax(2).sum(-1) for _, n, z in _runs(runs)], 1)
    return g, h


def backward(
    features: Tensor, runs: list[int], mask: Tensor | None, grad_scores: Tensor | None, grad_diversity: Tensor | None
) -> Tensor:
    x = features.flatten(2)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    s = x.softmax(-1)
    a = x if mask is None else x * mask.unsqueeze(-1)
    grad = torch.zeros_like(x)
    for c, n, z in _runs(runs):
        sr, ar, gr = (t[:, n].unflatten(1, (-1, z)) for t in (s, a, grad))
        if grad_diversity is not None:
            i = torch.zeros_like(sr).scatter_(2, sr.max(2, keepdim=True).indices, 1.0)
            gr += grad_diversity[:, c, None, None] * sr * (i - (i * sr).sum(-1, keepdim=True))
        if grad_scores is not None:
            i = torch.zeros_like(ar).scatter_(2, ar.max(2, keepdim=True).indices, 1.0)
            if mask is not None:
                i = i * (mask.expand(x.shape[:2])[:, n].unflatten(1, (-1, z)).unsqueeze(-1))
            gr += grad_scores[:, c, None, None] / x.shape[-1] * i
    return torch.empty_like(features).copy_(grad.view(features.shape))
