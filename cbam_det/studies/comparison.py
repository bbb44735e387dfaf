"""Two rows of a study, paired by seeds: the mean difference, its interval and the verdict, and how
many seeds would show a difference or narrow the interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

MOST_SEEDS = 1000
POWER = 0.8


@dataclass(frozen=True)
class Comparison:
    """A row against its baseline, paired by seeds.

    Attributes:
        count: number of seeds that both rows have.
        mean: mean of the differences.
        low, high: 95% interval of that mean by Student's t; None with fewer than two seeds.
        p: p-value of the paired t-test; None with fewer than two seeds, or if all differences are
            equal.
    """

    count: int
    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None

    @property
    def verdict(self) -> str:
        """The conclusion from the interval, for a metric where higher is better."""
        if self.low is None or self.high is None:
            return 'one seed, no verdict'
        if self.low == self.high:
            return 'equal differences, no verdict'
        if self.low > 0:
            return 'better'
        return 'worse' if self.high < 0 else 'no difference seen'


def compare(ours: Mapping[int, float], base: Mapping[int, float]) -> Comparison | None:
    """Compare the values of two rows, by seed; None if they share no seed."""
    seeds = sorted(set(ours) & set(base))
    if not seeds:
        return None
    gaps = [ours[seed] - base[seed] for seed in seeds]
    mean, low, high = mean_interval(gaps)
    if low is None:
        return Comparison(len(seeds), mean)
    # If all differences are equal, the t-test would divide by 0.
    p = None if low == high else float(stats.ttest_1samp(gaps, 0).pvalue)
    return Comparison(len(seeds), mean, low, high, p)


def mean_interval(numbers: Sequence[float]) -> tuple[float, float | None, float | None]:
    """The mean, and its 95% interval by Student's t, which is None for fewer than two numbers."""
    mean = float(np.mean(numbers))
    if len(numbers) < 2:
        return mean, None, None
    half_width = float(stats.t.ppf(0.975, len(numbers) - 1) * stats.sem(numbers))
    if np.ptp(numbers) <= 1e-9:  # equal but for rounding errors
        half_width = 0.0
    return mean, mean - half_width, mean + half_width


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
    deviation = _deviation(comparison)
    if not deviation:
        return None
    for count in range(2, MOST_SEEDS + 1):
        shift = difference / deviation * math.sqrt(count)
        threshold = stats.t.ppf(0.975, count - 1)
        # Far from 0 scipy's noncentral t gives no number, and the other end counts for nothing.
        if shift > threshold + 10 or stats.nct.sf(threshold, count - 1, shift) >= POWER:
            return count
    return None


def seeds_for_width(comparison: Comparison, half_width: float) -> int | None:
    """The fewest seeds with which the 95% interval would be `half_width` or less to each side, a
    rough count as that of `seeds_needed`.

    Returns:
        The count; None if the comparison has no interval, or if `MOST_SEEDS` are too few.
    """
    deviation = _deviation(comparison)
    if deviation is None:
        return None
    for count in range(2, MOST_SEEDS + 1):
        if stats.t.ppf(0.975, count - 1) * deviation / math.sqrt(count) <= half_width:
            return count
    return None


def _deviation(comparison: Comparison) -> float | None:
    """The standard deviation of the differences; None without an interval."""
    if comparison.low is None or comparison.high is None:
        return None
    half_width = (comparison.high - comparison.low) / 2
    quantile = stats.t.ppf(0.975, comparison.count - 1)
    return float(half_width * math.sqrt(comparison.count) / quantile)
