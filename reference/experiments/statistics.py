"""Statistics of the numbers of several seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy.stats import t

CONFIDENCE = 0.95


def mean_and_deviation(values: Sequence[float], digits: str, sign: str = "") -> str:
    """Mean ± standard deviation, such as "95.6 ± 2.2"; one value alone has no deviation, and NaN is "–".

    Args:
        values: one per seed.
        digits: a format such as ".1f".
        sign: "+" to write a plus as well.
    """
    mean = statistics.fmean(values)
    if math.isnan(mean):
        return "–"
    text = format(mean, sign + digits)
    return f"{text} ± {statistics.stdev(values):{digits}}" if len(values) > 1 else text


def interval(values: Sequence[float]) -> float:
    """Half the width of the confidence interval of the mean, by Student's t; NaN for one value alone."""
    if len(values) < 2:
        return math.nan
    return deviations(len(values)) * statistics.stdev(values)


def deviations(number: int) -> float:
    """Half the width of that interval in standard deviations, for so many values."""
    return float(t.ppf((1 + CONFIDENCE) / 2, number - 1)) / math.sqrt(number)
