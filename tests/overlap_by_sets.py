"""The overlap of a class's channels by its definition, written with sets: the oracle of `channel_overlap`."""

from __future__ import annotations

import math
from itertools import combinations
from statistics import fmean

from torch import Tensor

from mcl_triton import ChannelGroups


def overlap_by_sets(features: Tensor, groups: ChannelGroups, classes: Tensor) -> list[float]:
    """The overlap in each image of features (B, N, ...), for its class of ``classes`` (B,); NaN where there is none."""
    expected = []
    for sample, index in zip(features.flatten(2).double().tolist(), classes.tolist(), strict=True):
        first = groups.offsets[index]
        tops = [_top_positions(channel) for channel in sample[first : first + groups.sizes[index]]]
        ratios = [len(one & other) / len(one | other) for one, other in combinations(tops, 2) if one and other]
        expected.append(fmean(ratios) if ratios else math.nan)
    return expected


def _top_positions(values: list[float]) -> set[int]:
    threshold = sorted(values, reverse=True)[math.ceil(len(values) / 10) - 1]
    return {place for place, value in enumerate(values) if value >= threshold and value > min(values)}
