"""The verdict of a comparison in one sentence, and lengths of time in words."""

from __future__ import annotations

from .comparison import MOST_SEEDS, Comparison, seeds_needed

NUMBERS = ('no', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten')


def verdict_sentence(name: str, base: str, metric: str, comparison: Comparison) -> str:
    """What a comparison says, such as 'CBAM against baseline: AP +0.8 (-0.3 to +1.9), three seeds:
    no difference seen; 1 more seed would show a difference of 1 point.'

    Args:
        name: of the row.
        base: of its baseline.
        metric: its name; more is better, and the comparison is in percent.
        comparison: of the two.
    """
    begin = f'{name} against {base}: {metric} {interval(comparison)}, {_count(comparison.count)}: '
    if comparison.low is None or comparison.high is None:
        return f'{begin}no verdict, since one seed has no interval.'
    if comparison.low == comparison.high:
        return f'{begin}no verdict, since all differences are equal.'
    if comparison.low > 0:
        return f'{begin}{name} is better.'
    if comparison.high < 0:
        return f'{begin}{name} is worse.'
    return f'{begin}no difference seen; {_more_seeds(comparison)}.'


def _more_seeds(comparison: Comparison) -> str:
    needed = seeds_needed(comparison, 1)
    if needed is None:
        return f'more than {MOST_SEEDS:,} seeds would be needed to show a difference of 1 point'
    more = needed - comparison.count
    if more <= 0:
        return 'a difference of 1 point would probably have been seen'
    seeds = '1 more seed' if more == 1 else f'{more} more seeds'
    return f'about {seeds} would show a difference of 1 point'


def interval(comparison: Comparison) -> str:
    """The mean difference and its 95% interval, '+0.8 (-0.3 to +1.9)'."""
    numbers = [comparison.mean, comparison.low, comparison.high]
    # An end near 0 shows on which side of it it is.
    digits = 1 if all(abs(number) >= 0.05 for number in numbers if number) else 2
    mean, *ends = (f'{number + 0:+.{digits}f}' for number in numbers if number is not None)
    return f'{mean} ({" to ".join(ends)})' if ends else mean


def _count(seeds: int) -> str:
    number = NUMBERS[seeds] if seeds < len(NUMBERS) else str(seeds)
    return f'{number} seed' if seeds == 1 else f'{number} seeds'


def duration(seconds: float) -> str:
    """A length of time: '40 s', '12 min', '3 h 20 min'."""
    if seconds < 90:
        return f'{seconds:.0f} s'
    minutes = round(seconds / 60)
    if minutes < 90:
        return f'{minutes} min'
    return f'{minutes // 60} h {minutes % 60} min'
