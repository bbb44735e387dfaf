"""What the records of a study say: rows against their baselines, paired by seeds, as a table."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from ..utils.errors import InputError
from ..utils.records import table_row
from .records import orphans, read_record, records
from .study import GATES, PROGRAM, Row, Study, focus_path, gates_path, recorded

BESIDE = ('paper', 'mmdet')


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
    reach = float(stats.t.ppf(0.975, len(numbers) - 1) * stats.sem(numbers))
    reach *= np.ptp(numbers) > 1e-9  # what is left where all are the same is rounding
    return mean, mean - reach, mean + reach


def values(study: Study, row: Row, results: Path, metric: str) -> dict[int, float]:
    """A metric of a row by seed, in percent, of the runs that are recorded and have it."""
    found = {}
    key = study.metrics_of(row).get(metric)
    for seed in row.seeds:
        record = read_record(results, study, row, seed)
        value = None if record is None else record['metrics'].get(key)
        if value is not None:
            found[seed] = study.scale_of(row) * value
    return found


def difference(study: Study, row: Row, results: Path, metric: str) -> Comparison | None:
    """A row against its baseline, in percent; None where it has none, or no run of both."""
    if row.against is None:
        return None
    rows = (row, study.rows[row.against])
    return compare(*(values(study, one, results, metric) for one in rows))


def table(study: Study, results: Path) -> str:
    """The study as Markdown tables, in percent, and what made them; one for all rows that have the
    same metrics.

    By metric the mean and the standard deviation over the seeds, and the difference to the row's
    baseline, paired by seeds, with its 95% interval; of the first metric, which is the measure, the
    p of the paired t-test and the verdict too; the paper's difference and mmdet's figure beside it,
    where there are any; the measure of the row whose weights it starts from; and the weights of the
    gates, where they are recorded.
    """
    tables = [_table(study, rows, results) for rows in study.measured_alike()]
    return '\n'.join([*'\n\n'.join(tables).splitlines(), '', *_origin(study, results)])


def summary(study: Study, results: Path) -> str:
    """The recorded rows by the measure alone, as a Markdown table in percent: n, the mean and the
    standard deviation over the seeds, the difference to the baseline with its 95% interval, and the
    verdict.
    """
    lines = [
        table_row(['', 'n', 'score', 'difference', 'verdict']),
        table_row(['---', '---:', '---:', '---:', '---']),
    ]
    for row in study.rows.values():
        metric = next(iter(study.metrics_of(row)))
        by_seed = values(study, row, results, metric)
        if by_seed:
            gap, _, verdict = _difference(study, row, results, metric)
            score = f'{metric} {_spread(by_seed)}'
            lines.append(table_row([row.name, len(by_seed), score, gap, verdict]))
    return '\n'.join(lines)


def _table(study: Study, rows: Sequence[Row], results: Path) -> str:
    metrics = study.metrics_of(rows[0])
    first, *others = metrics
    paper, mmdet = (any(getattr(row, key) for row in rows) for key in BESIDE)
    compared = any(row.against for row in rows)
    starts = {
        next(iter(study.metrics_of(study.rows[name]))): None
        for row in rows
        for name in row.weights.values()
    }
    head = ['', 'n', *metrics, f'{first}, difference', 'p', 'says']
    head += [f'{name}, difference' for name in others] * compared
    head += [f'{name} of its start' for name in starts]
    head += [f"paper's {first}", 'diff.'] * paper + [f"mmdet's {first}"] * mmdet
    weights = recorded(gates_path(results, study)).get('rows', {})
    weights = {row.name: weights[row.name] for row in rows if row.name in weights}
    head += [f'{gate} weights' for gate in GATES] * bool(weights)
    lines = [table_row(head), table_row(['---', *['---:'] * (len(head) - 1)])]
    for row in rows:
        cells = [_spread(values(study, row, results, metric)) for metric in metrics]
        count = len(values(study, row, results, first))
        cells += _difference(study, row, results, first)
        cells += [_difference(study, row, results, name)[0] for name in others] * compared
        cells += [_of_start(study, row, results, name) for name in starts]
        cells += _theirs(study, row, first) * paper
        cells += [_printed(row.mmdet.get(first))] * mmdet
        cells += [_range(weights.get(row.name, {}).get(gate)) for gate in GATES] * bool(weights)
        lines.append(table_row([row.name, count, *cells]))
    return '\n'.join(lines)


def _spread(by_seed: Mapping[int, float]) -> str:
    numbers = list(by_seed.values())
    spread = f' ± {np.std(numbers, ddof=1):.2f}' if len(numbers) > 1 else ''
    return f'{np.mean(numbers):.2f}{spread}' if numbers else ''


def _of_start(study: Study, row: Row, results: Path, metric: str) -> str:
    """A metric of the row whose weights `row` starts from, of the seeds that both have."""
    first = next(iter(study.metrics_of(row)))
    own = values(study, row, results, first)
    for name in row.weights.values():
        source = study.rows[name]
        if metric in study.metrics_of(source):
            theirs = values(study, source, results, metric)
            return _spread({seed: value for seed, value in theirs.items() if seed in own})
    return ''


SIZES = dict(s='small', m='medium', l='large')


def breakdown(study: Study, results: Path) -> str:
    """Where each row differs from its baseline: COCO's AP by object size, and by class from the
    largest gain to the largest loss, as Markdown tables in percent, paired by seeds, with the 95%
    intervals. Rows without records, or of classifiers, have no table.
    """
    tables = []
    for row in study.rows.values():
        base = study.baseline(row)
        if base is None:
            continue
        ours, theirs = (_of_coco(study, one, results) for one in (row, base))
        found: dict[str, Comparison] = {}
        for name in ours:
            if seen := compare(ours[name], theirs.get(name, {})):
                found[name] = seen
        if not found:
            continue
        sizes = [name for name in SIZES.values() if name in found]
        classes = sorted(set(found) - {*sizes}, key=lambda name: -found[name].mean)
        lines = [
            table_row([f'{row.name}, AP', 'n', base.name, 'difference']),
            table_row(['---', *['---:'] * 3]),
        ]
        for name in [*sizes, *classes]:
            kept = np.mean([theirs[name][seed] for seed in theirs[name] if seed in ours[name]])
            seen = found[name]
            lines.append(table_row([name, seen.count, f'{kept:.2f}', _interval(seen)]))
        intervals = [name for name in classes if found[name].low is not None]
        if intervals:
            beyond = sum(found[name].verdict in ('helps', 'hurts') for name in intervals)
            lines += [
                '',
                f'{beyond} of {len(classes)} classes have an interval without 0; by chance alone '
                f'{0.05 * len(classes):.1f} would.',
            ]
        tables.append('\n'.join(lines))
    return '\n\n'.join(tables) or 'no detector is recorded beside its baseline'


def _of_coco(study: Study, row: Row, results: Path) -> dict[str, dict[int, float]]:
    """By object size and class name COCO's AP of a row by seed, in percent."""
    found: dict[str, dict[int, float]] = {}
    for seed in row.seeds:
        record = read_record(results, study, row, seed) or dict(metrics={})
        for key, value in record['metrics'].items():
            name = key.removeprefix('coco/')
            name = SIZES.get(name.removeprefix('bbox_mAP_'), name.removesuffix('_precision'))
            known = name in SIZES.values() or key.endswith('_precision')
            if key.startswith('coco/') and known and value is not None and value >= 0:
                found.setdefault(name, {})[seed] = 100 * value
    return found


def heat_table(study: Study, results: Path) -> str:
    """How much of Grad-CAM's heat lies inside objects, by row beside its baseline, as a Markdown
    table in percent: means over the seeds, the difference paired by seeds, with its 95% interval.

    Raises:
        InputError: it was not measured.
    """
    path = focus_path(results, study)
    record = recorded(path)
    if not record:
        raise InputError(
            f'no record {path}; make it: {shlex.join([*PROGRAM, "focus", study.name])}'
        )
    head = ['', 'n', 'baseline', 'heat inside', 'difference', 'p', 'says', 'objects']
    lines = [table_row(head), table_row(['---', *['---:'] * (len(head) - 1)])]
    chance = []
    for name, by_seed in record['runs'].items():
        base, ours = (
            {int(seed): 100 * rows[place]['energy'][0] for seed, rows in _rows(by_seed).items()}
            for place in (0, 1)
        )
        seen = compare(ours, base)
        if seen is None:
            continue
        chance += [100 * one['chance'] for one in by_seed.values()]
        objects = sum(one['objects'] for one in by_seed.values())
        cells = [name, seen.count, _spread(base), _spread(ours), _interval(seen), _p(seen)]
        planned = _pairs(study, study.rows[name]) if name in study.rows else seen.count
        lines.append(table_row([*cells, _says(seen, planned), f'{objects:,}']))
    method = next(iter(next(iter(record['runs'].values())).values()))['method']
    return '\n'.join(
        [
            *lines,
            '',
            f"The share of {method}'s heat inside the boxes of objects that both detectors find "
            f'with a score of {record["score"]:g} or more, on {record["images"]} test images; heat '
            f'spread evenly would have {np.mean(chance):.1f} inside. `{record["command"]}`',
        ]
    )


def _rows(by_seed: Mapping[str, dict]) -> dict[str, list[dict]]:
    return {seed: list(one['rows'].values()) for seed, one in by_seed.items()}


def _origin(study: Study, results: Path) -> list[str]:
    """Below the table: how many runs, their cost and machines, the study's note."""
    found = records(study, results)
    wanted = sum(len(row.seeds) for row in study.rows.values())
    lines = [f'{len(found)} of {wanted} runs recorded']
    if found:
        groups = [records(study, results, rows) for rows in study.measured_alike()]
        minutes = [
            f'{statistics.median(one["train_seconds"] for one in group) / 60:.1f}'
            for group in groups
            if group
        ]
        machines = {
            f'{at["hardware"]}, {at["threads"]} threads, torch {at["torch"]}'.replace(
                ' 1 threads', ' 1 thread'
            )
            for at in (one['environment'] for one in found)
        }
        commits = sorted({one['commit'][:7] for one in found if one.get('commit')})
        where = [*sorted(machines), *(f'commit {one}' for one in commits)]
        lines[0] += f', a training {" and ".join(minutes)} minutes (median'
        lines[0] += 's of the tables); ' if len(minutes) > 1 else '); '
        lines[0] += '; '.join(where)
    with_gpus = f' --gpus {study.gpus}' if (study.gpus or 1) > 1 else ''
    lines[0] += f'. `{shlex.join(PROGRAM)} run {study.name}{with_gpus}`'
    tests = 0
    measures: list[str] = []
    for row in study.rows.values():
        first = next(iter(study.metrics_of(row)))
        seen = difference(study, row, results, first)
        if seen is not None and seen.count == _pairs(study, row) > 1:
            tests += 1
            if first not in measures:
                measures.append(first)
    if tests:
        chance = 100 * (1 - 0.95**tests)
        verb = 'is the measure' if len(measures) == 1 else 'are the measures'
        lines[0] += (
            f'. {" and ".join(measures)} {verb}: where there is no effect, a comparison says helps '
            'or hurts 5% of the time'
        )
        lines[0] += f', one or more of {tests} up to {chance:.0f}%' * (tests > 1)
    if left := orphans(study, results):
        lines[0] += f'. Records of rows or seeds that the study has no more: {len(left)}'
    if taken := recorded(gates_path(results, study)):
        lines[0] += (
            '. Weights: of all CBAMs after the training, 5% to 95%, means over the runs, on '
            f'{taken["images"]} validation images (`{taken["command"]}`)'
        )
    return lines + ['', study.note] * bool(study.note)


def _range(quantiles: Sequence[float] | None) -> str:
    return '' if quantiles is None else f'{quantiles[0]:.2f} to {quantiles[-1]:.2f}'


def _difference(study: Study, row: Row, results: Path, metric: str) -> list[str]:
    seen = difference(study, row, results, metric)
    if seen is None:
        return [''] * 3
    short = seen.count != len(values(study, row, results, metric))
    between = f', {seen.count} pairs' * short
    planned = _pairs(study, row)
    return [f'{_interval(seen)}{between}', _p(seen), _says(seen, planned)]


def _says(seen: Comparison, planned: int) -> str:
    early = f'{seen.count} of {planned} pairs: nothing yet'  # a few rounded values may all agree
    return early if seen.count < planned else seen.verdict


def _interval(seen: Comparison) -> str:
    between = '' if seen.low is None else f' ({seen.low:+.2f} to {seen.high:+.2f})'
    return f'{round(seen.mean, 2) + 0:+.2f}{between}'


def _p(seen: Comparison) -> str:
    return '' if seen.p is None else '< 0.001' if seen.p < 0.001 else f'{seen.p:.3f}'


def _pairs(study: Study, row: Row) -> int:
    base = study.baseline(row)
    return 0 if base is None else len(set(row.seeds) & set(base.seeds))


def _theirs(study: Study, row: Row, metric: str) -> list[str]:
    paper = row.paper.get(metric)
    base = study.baseline(row)
    against = base.paper.get(metric) if base else None
    gap = '' if paper is None or against is None else f'{paper - against:+.2f}'
    return [_printed(paper), gap]


def _printed(value: float | None) -> str:
    return '' if value is None else f'{value:g}'
