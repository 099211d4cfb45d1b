"""A number of several seeds in a few characters."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def mean_and_deviation(values: Sequence[float], digits: str, sign: str = "") -> str:
    """Mean ± standard deviation, such as "95.6 ± 2.2"; one value alone has no deviation, and NaN is "–".

    Args:
        values: one a seed.
        digits: a format such as ".1f".
        sign: "+" to write a plus as well.
    """
    mean = statistics.fmean(values)
    if math.isnan(mean):
        return "–"
    text = format(mean, sign + digits)
    return f"{text} ± {statistics.stdev(values):{digits}}" if len(values) > 1 else text
