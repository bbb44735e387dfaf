"""How many seeds a paired comparison needs to show a difference of a given size."""

from __future__ import annotations

import math

from scipy import stats

from .comparison import Comparison

MOST_SEEDS = 1000
POWER = 0.8


def seeds_needed(comparison: Comparison, difference: float) -> int | None:
    """The fewest seeds with which a true difference would be shown with the probability `POWER`,
    shown being a 95% interval of Student's t without 0.

    The seeds' differences are taken to spread as those of `comparison`, which estimates this from
    its few seeds: the count is a rough one.

    Args:
        comparison: of two seeds or more.
        difference: the true one, in the comparison's unit, above 0.

    Returns:
        The count; None where the comparison has no interval, or one of no width, or where
        `MOST_SEEDS` are too few.
    """
    if comparison.low is None or comparison.high is None or comparison.low == comparison.high:
        return None
    half_width = (comparison.high - comparison.low) / 2
    quantile = stats.t.ppf(0.975, comparison.count - 1)
    deviation = half_width * math.sqrt(comparison.count) / quantile
    for count in range(2, MOST_SEEDS + 1):
        shift = difference / deviation * math.sqrt(count)
        threshold = stats.t.ppf(0.975, count - 1)
        # Far from 0 scipy's noncentral t gives no number, and the other end counts for nothing.
        if shift > threshold + 10 or stats.nct.sf(threshold, count - 1, shift) >= POWER:
            return count
    return None
