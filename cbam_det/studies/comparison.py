"""Two rows of a study, paired by seeds: the mean difference, its interval and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


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
