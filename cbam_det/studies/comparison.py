"""Two rows of a study, paired by seeds: the mean difference, its interval, and what that says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Comparison:
    """A row against its baseline, paired by seeds.

    Attributes:
        count: seeds that both have, n.
        mean: of the differences.
        low, high: ends of the 95% interval of that mean, by Student's t; None below two seeds.
        p: of the paired t-test; None below two seeds, or where all differences are the same.
    """

    count: int
    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None

    @property
    def verdict(self) -> str:
        """What the interval says, for a metric of which more is better."""
        if self.low is None or self.high is None:
            return 'one seed: nothing'
        if self.low == self.high:
            return 'all pairs alike: nothing'
        return 'helps' if self.low > 0 else 'hurts' if self.high < 0 else 'no difference seen'


def compare(ours: Mapping[int, float], base: Mapping[int, float]) -> Comparison | None:
    """Two rows' values by seed; None where they share no seed."""
    seeds = sorted(set(ours) & set(base))
    if not seeds:
        return None
    gaps = [ours[seed] - base[seed] for seed in seeds]
    mean, low, high = mean_interval(gaps)
    if low is None:
        return Comparison(len(seeds), mean)
    # Where all are the same, the t-test divides by 0.
    p = None if low == high else float(stats.ttest_1samp(gaps, 0).pvalue)
    return Comparison(len(seeds), mean, low, high, p)


def mean_interval(numbers: Sequence[float]) -> tuple[float, float | None, float | None]:
    """The mean and the ends of its 95% interval by Student's t; None below two numbers."""
    mean = float(np.mean(numbers))
    if len(numbers) < 2:
        return mean, None, None
    half_width = float(stats.t.ppf(0.975, len(numbers) - 1) * stats.sem(numbers))
    if np.ptp(numbers) <= 1e-9:  # what is left where all are the same is rounding
        half_width = 0.0
    return mean, mean - half_width, mean + half_width
