"""The two reductions and their gradient in plain PyTorch, arranged for the CPU; they run on any device.

The features are worked on in blocks that stay in the cache. `docs/cpu.md` says what each choice here gained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from .backend import working_dtype
from .blocks import Part, Scratch, copy, parts_of


def forward(
    features: Tensor, runs: Sequence[int], mask: Tensor | None, wants_scores: bool = True, wants_diversity: bool = True
) -> tuple[Tensor, Tensor]:
    """Class scores g and diversity scores h.

    Args:
        features: F, (B, N, ...), floating.
        runs: how many classes, how many channels each, how many classes, ...: `ChannelGroups.runs` in one list.
        mask: M, (N,) or (B, N), zeros and ones in the dtype of the results; None keeps every channel.
        wants_scores, wants_diversity: whether g and h are wanted.

    Returns:
        g and h, (B, C), float32, or float64 where the features are; empty where not wanted.
    """
    features = features.flatten(2)  # [B, N, P]
    batch, channels, _ = features.shape
    dtype = working_dtype(features)
    shape = (batch, sum(runs[::2]))
    scores = features.new_empty(shape if wants_scores else 0, dtype=dtype)
    diversity = features.new_empty(shape if wants_diversity else 0, dtype=dtype)
    scratch = Scratch(features, dtype)
    for part in parts_of(features, runs):
        g = part.of_classes(scores) if wants_scores else None
        h = part.of_classes(diversity) if wants_diversity else None
        kept = None if mask is None else part.of_channels(mask.expand(batch, channels).unsqueeze(2))
        for maps_block, kept_block, g_block, h_block in part.blocks(part.of_channels(features), kept, g, h):
            s = scratch("s", maps_block.shape)
            # What is loaded may lie in s itself; softmax and product work in place.
            if wants_diversity:
                torch.softmax(scratch.load(maps_block), part.position_dim, out=s)
                maximum = s.amax(part.channel_dim, keepdim=True)  # CCMP
                torch.sum(maximum, part.reduced_dims, keepdim=True, out=h_block)
            if wants_scores:
                attended = scratch.load(maps_block)
                if mask is not None:
                    attended = torch.mul(attended, kept_block, out=s)  # CWA: M·F
                maximum = attended.amax(part.channel_dim, keepdim=True)  # CCMP
                torch.mean(maximum, part.reduced_dims, keepdim=True, out=g_block)  # GAP
        if g is not None:
            part.put_classes(scores, g)
        if h is not None:
            part.put_classes(diversity, h)
    return scores, diversity


def backward(
    features: Tensor,
    runs: Sequence[int],
    mask: Tensor | None,
    grad_scores: Tensor | None,
    grad_diversity: Tensor | None,
) -> Tensor:
    """The gradient of the features, given that of g and h (None where there is none)::

        dF[b,j,k] = dh[b,i] · s[b,j,k] · ([W_h[k] = j] − w[b,j])  +  dg[b,i] / P · M_j · [W_g[k] = j]

    with s the softmax, W_h and W_g the winning channel at position k, the first of equals, and w the sum of s over the
    positions that a channel wins.

    Args:
        features, runs, mask: as in `forward`.
        grad_scores: dg, (B, C).
        grad_diversity: dh, (B, C).

    Returns:
        dF in the shape, dtype and memory layout of the features.
    """
    grad = torch.empty_like(features)
    grad_maps = grad.flatten(2)  # [B, N, P], a view unless the layout is an odd one
    layout_is_odd = grad_maps.data_ptr() != grad.data_ptr()
    features = features.flatten(2)
    batch, channels, positions = features.shape
    dtype = working_dtype(features)
    scratch = Scratch(features, dtype)
    mask = features.new_ones(channels, dtype=dtype) if mask is None else mask
    scale, nudges = _tie_breakers(max(runs[1::2]), dtype, features.device)
    for part in parts_of(features, runs):
        out_maps = part.of_channels(grad_maps)
        kept, kept_scaled = (
            part.of_channels(values.expand(batch, channels).unsqueeze(2)) for values in (mask, mask * scale)
        )
        dg = None if grad_scores is None else part.of_classes(grad_scores / positions)  # dg / P
        dh = None if grad_diversity is None else part.of_classes(grad_diversity)
        part_nudges = part.channel_column(nudges)
        for maps_block, out_block, kept_block, kept_scaled_block, dg_block, dh_block in part.blocks(
            part.of_channels(features), out_maps, kept, kept_scaled, dg, dh
        ):
            s = scratch("s", maps_block.shape)
            out = out_block if scratch.fits(out_block) else scratch("out", maps_block.shape)
            if grad_diversity is None:
                out.zero_()
            else:
                torch.softmax(scratch.load(maps_block), part.position_dim, out=s)
                _winners(part, s, out=out).mul_(dh_block)  # dh · [W_h = j]
                torch.ops.aten._softmax_backward_data(out, s, part.position_dim, dtype, grad_input=out)
            if grad_scores is not None:
                torch.mul(scratch.load(maps_block), kept_scaled_block, out=s).add_(part_nudges)
                exact_values = partial(scratch.load_masked, maps_block, kept_block)
                winners = _winners(part, s, out=s, exact_values=exact_values)
                out.addcmul_(winners, dg_block * kept_block)  # dg / P · M_j · [W_g = j]
            if out is not out_block:
                copy(out_block, out)
        part.put_channels(grad_maps, out_maps)
    return grad.copy_(grad_maps.view(grad.shape)) if layout_is_odd else grad


def _winners(part: Part, values: Tensor, out: Tensor, exact_values: Callable[[], Tensor] | None = None) -> Tensor:
    """1 where a channel is the maximum of its group, the first of equals; 0 elsewhere.

    Args:
        part: whose block it is.
        values: a block; NaN wins over everything.
        out: where the result goes; may be ``values``.
        exact_values: gives the values themselves, where those handed over are nudged and may overflow.
    """
    channel_dim = part.channel_dim
    maximum = values.amax(channel_dim, keepdim=True)
    if values.device.type != "cpu" or not math.isfinite(maximum.sum().item()):
        values = values if exact_values is None else exact_values()
        index = values.max(channel_dim, keepdim=True).indices
        return out.zero_().scatter_(channel_dim, index, 1.0)
    torch.eq(values, maximum, out=out)
    if out.sum().item() != maximum.numel():  # somewhere several are equal: number the channels from the last
        out *= part.channel_column(torch.arange(part.size, 0, -1, dtype=out.dtype, device=out.device))
        torch.eq(out, out.amax(channel_dim, keepdim=True), out=out)
    return out


def _tie_breakers(size: int, dtype: torch.dtype, device: torch.device) -> tuple[float, Tensor]:
    """What makes the first of several zeros the largest, and keeps the order of all other values as it is.

    Zeros are the usual tie: masked channels, and those that a ReLU silenced. Multiplied by the scale, a power of two,
    no two different values are nearer than 2^20 times the smallest normal number; the nudges, (size,), are a few of
    these, largest for the first channel.
    """
    info = torch.finfo(dtype)
    return 2.0**20 / info.eps, torch.arange(size, 0, -1, dtype=dtype, device=device) * info.tiny
