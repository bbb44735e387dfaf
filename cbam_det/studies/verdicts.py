"""Tables of a study: its rows compared with their baselines, paired by seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..models.attention_modules import at_start
from ..utils.errors import InputError
from ..utils.records import table_head, table_row
from .comparison import MOST_SEEDS, Comparison, compare, seeds_for_width
from .records import read_record, records, runs_without_row
from .study import (
    GATES,
    Row,
    Study,
    command_of_study,
    focus_path,
    gates_path,
    read_json,
)

REFERENCES = ('paper', 'mmdet')
NARROW = 0.5  # half width of an interval, in points


def values(study: Study, row: Row, results: Path, metric: str) -> dict[int, float]:
    """A metric of a row by seed, in percent, for the recorded runs that have it."""
    by_seed = {}
    key = study.metrics_of(row).get(metric)
    for seed in row.seeds:
        record = read_record(results, study, row, seed)
        value = None if record is None else record['metrics'].get(key)
        if value is not None:
            by_seed[seed] = study.scale_of(row) * value
    return by_seed


def first_score(study: Study, row: Row, record: dict) -> str:
    """The first metric of a record in percent, 'AP 37.21', for a line about its run."""
    metric, key = next(iter(study.metrics_of(row).items()))
    value = record['metrics'][key]
    return f'{metric} {study.scale_of(row) * value:.2f}' if value is not None else f'no {metric}'


def difference(study: Study, row: Row, results: Path, metric: str) -> Comparison | None:
    """Compare a row with its baseline, in percent; None without a baseline or a common seed."""
    if row.against is None:
        return None
    rows = (row, study.rows[row.against])
    return compare(*(values(study, compared_row, results, metric) for compared_row in rows))


def table(study: Study, results: Path) -> str:
    """The study as Markdown tables in percent, one for each group of rows with the same metrics.

    For each metric: mean and standard deviation over the seeds, and the difference to the baseline,
    paired by seeds, with its 95% interval. For the first metric also: the p-value of the paired
    t-test and the verdict. If they exist: the results of the paper and of mmdet, the score of the
    row that provided the initial weights, and the attention weights. Below the tables: how many
    runs are recorded, and on which machines.
    """
    tables = [_table(study, rows, results) for rows in study.measured_alike()]
    return '\n'.join([*'\n\n'.join(tables).splitlines(), '', *_origin(study, results)])


def summary(study: Study, results: Path) -> str:
    """The recorded rows by their first metric alone, as a Markdown table in percent.

    The columns are n, mean and standard deviation over the seeds, the difference to the baseline
    with its 95% interval, and the verdict.
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
            score = f'{metric} {spread(by_seed)}'
            lines.append(table_row([row.name, len(by_seed), score, gap, verdict]))
    return '\n'.join(lines)


def _table(study: Study, rows: Sequence[Row], results: Path) -> str:
    metrics = study.metrics_of(rows[0])
    first, *other_metrics = metrics
    paper, mmdet = (
        [name for name in metrics if any(name in getattr(row, key) for row in rows)]
        for key in REFERENCES
    )
    compared = any(row.against for row in rows)
    starts = {
        next(iter(study.metrics_of(study.rows[name]))): None
        for row in rows
        for name in row.weights.values()
    }
    head = ['', 'n', *metrics, f'{first}, difference', 'p', 'verdict']
    if compared:
        head += [f'{name}, difference' for name in other_metrics]
    head += [f'{name} of the initial weights' for name in starts]
    head += [f"paper's {name}" for name in paper]
    if paper:
        head.append(f"paper's {first}, difference")
    head += [f"mmdet's {name}" for name in mmdet]
    weights = read_json(gates_path(results, study)).get('rows', {})
    weights = {row.name: weights[row.name] for row in rows if row.name in weights}
    if weights:
        head += [f'{gate} attention weights' for gate in GATES]
    unmoved = rows_at_start(weights)
    lines = table_head(head)
    for row in rows:
        count = len(values(study, row, results, first))
        cells = [score_cell(values(study, row, results, metric), count) for metric in metrics]
        cells += _difference(study, row, results, first)
        if cells[-1] and row.name in unmoved:
            cells[-1] += ', attention unchanged'
        if compared:
            cells += [_difference(study, row, results, name)[0] for name in other_metrics]
        cells += [_start_cell(study, row, results, name) for name in starts]
        cells += [_figure(rows, 'paper', row, name) for name in paper]
        if paper:
            cells.append(_paper_difference(study, row, first))
        cells += [_figure(rows, 'mmdet', row, name) for name in mmdet]
        if weights:
            cells += [_range(weights.get(row.name, {}).get(gate)) for gate in GATES]
        lines.append(table_row([row.name, count, *cells]))
    return '\n'.join(lines)


def spread(by_seed: Mapping[int, float], digits: int = 2) -> str:
    """The mean and the standard deviation over the seeds, '37.21 ± 0.35'; '' without numbers."""
    numbers = list(by_seed.values())
    deviation = f' ± {np.std(numbers, ddof=1):.{digits}f}' if len(numbers) > 1 else ''
    return f'{np.mean(numbers):.{digits}f}{deviation}' if numbers else ''


def score_cell(by_seed: Mapping[int, float], count: int, digits: int = 2) -> str:
    """`spread`, with the number of seeds if it is not `count`, that of the row."""
    marked = by_seed and len(by_seed) != count
    return spread(by_seed, digits) + (f' (n {len(by_seed)})' if marked else '')


def _start_cell(study: Study, row: Row, results: Path, metric: str) -> str:
    """A metric of the row that provides the initial weights, over the seeds that both have."""
    first = next(iter(study.metrics_of(row)))
    own_values = values(study, row, results, first)
    for name in row.weights.values():
        source = study.rows[name]
        if metric in study.metrics_of(source):
            source_values = values(study, source, results, metric)
            shared = {seed: value for seed, value in source_values.items() if seed in own_values}
            return score_cell(shared, len(own_values))
    return ''


def heat_table(study: Study, results: Path) -> str:
    """The share of Grad-CAM's heat inside objects, compared with the baseline, as a Markdown table.

    In percent: means over the seeds, and the difference paired by seeds with its 95% interval.

    Raises:
        InputError: it was not measured.
    """
    path = focus_path(results, study)
    record = read_json(path)
    if not record:
        raise InputError(f'there is no record {path}; make it: {command_of_study("focus", study)}')
    head = ['', 'n', 'baseline', 'heat inside', 'difference', 'p', 'verdict', 'objects']
    lines = table_head(head)
    chance = []
    for name, by_seed in record['runs'].items():
        base, ours = (
            {
                int(seed): 100 * rows[place]['energy'][0]
                for seed, rows in _rows_by_seed(by_seed).items()
            }
            for place in (0, 1)
        )
        comparison = compare(ours, base)
        if comparison is None:
            continue
        chance += [100 * run['chance'] for run in by_seed.values()]
        objects = sum(run['objects'] for run in by_seed.values())
        cells = [
            name,
            comparison.count,
            spread(base),
            spread(ours),
            interval_cell(comparison),
            _p(comparison),
        ]
        planned_pairs = (
            _planned_pairs(study, study.rows[name]) if name in study.rows else comparison.count
        )
        lines.append(table_row([*cells, _verdict(comparison, planned_pairs), f'{objects:,}']))
    method = next(iter(next(iter(record['runs'].values())).values()))['method']
    return '\n'.join(
        [
            *lines,
            '',
            f"The share of Grad-CAM's heat (method {method}) inside the boxes of objects that both "
            f'detectors find with a score of {record["score"]:g} or more, on {record["images"]} '
            'test images; *objects* is their number over all seeds. '
            f'Evenly spread heat would have a share of {np.mean(chance):.1f}. '
            f'`{record["command"]}`',
        ]
    )


def _rows_by_seed(by_seed: Mapping[str, dict]) -> dict[str, list[dict]]:
    return {seed: list(run['rows'].values()) for seed, run in by_seed.items()}


def _origin(study: Study, results: Path) -> list[str]:
    """The lines below the table: number of runs, their time and machines, the study's note."""
    with_gpus = f' --gpus {study.gpus}' if (study.gpus or 1) > 1 else ''
    sentences = [
        _recorded_runs(study, results),
        f'`{command_of_study("run", study)}{with_gpus}`',
        *_chance_of_verdicts(study, results),
    ]
    if unused := runs_without_row(study, results):
        sentences.append(f'Records of removed rows or seeds: {len(unused)}')
    if gate_record := read_json(gates_path(results, study)):
        sentences.append(
            'Attention weights: 5% and 95% quantiles over all CBAMs after the training, as means '
            f'over the runs, on {gate_record["images"]} images of `val_dataloader` '
            f'(`{gate_record["command"]}`)'
        )
        if unmoved := [name for name in rows_at_start(gate_record['rows']) if name in study.rows]:
            sentences.append(
                f'The attention of {", ".join(unmoved)} is still at its initial weights of 1.00 '
                'and has no effect; a longer schedule or a larger lr_mult of the attention changes '
                'that'
            )
    return ['. '.join(sentences), *(['', study.note] if study.note else [])]


def _recorded_runs(study: Study, results: Path) -> str:
    """How many runs are recorded, the time of a training, the machines and the commits."""
    run_records = records(study, results)
    planned = sum(len(row.seeds) for row in study.rows.values())
    count = f'{len(run_records)} of {planned} runs recorded'
    if not run_records:
        return count
    groups = [records(study, results, rows) for rows in study.measured_alike()]
    minutes = [
        f'{statistics.median(record["train_seconds"] for record in group) / 60:.1f}'
        for group in groups
        if group
    ]
    median = 'medians of the tables' if len(minutes) > 1 else 'median'
    machines = {_machine(record['environment']) for record in run_records}
    commits = sorted({record['commit'][:7] for record in run_records if record.get('commit')})
    sources = [*sorted(machines), *(f'commit {commit}' for commit in commits)]
    return '; '.join([count, f'{" and ".join(minutes)} minutes per training ({median})', *sources])


def _chance_of_verdicts(study: Study, results: Path) -> list[str]:
    """How often a verdict is better or worse by chance, and how many seeds would narrow the
    intervals, as sentences; [] without a verdict.
    """
    complete: dict[str, list[Comparison]] = {}
    for row in study.rows.values():
        first = next(iter(study.metrics_of(row)))
        comparison = difference(study, row, results, first)
        if comparison is not None and comparison.count == _planned_pairs(study, row) > 1:
            complete.setdefault(first, []).append(comparison)
    if not complete:
        return []
    sentence = (
        f'Verdicts are on {" and ".join(complete)}: without any effect, a verdict is '
        'better or worse in 5% of cases'
    )
    if (tests := sum(map(len, complete.values()))) > 1:
        chance = 100 * (1 - 0.95**tests)
        sentence += f', and at least one of {tests} in up to {chance:.0f}%'
    return [sentence, *_seeds_for_narrow_intervals(complete)]


def _seeds_for_narrow_intervals(complete: Mapping[str, Sequence[Comparison]]) -> list[str]:
    """How many seeds would narrow wider intervals to `NARROW`, by metric, as a sentence."""
    counts = []
    for metric, comparisons in complete.items():
        needed = [(seeds_for_width(one, NARROW) or math.inf, one.count) for one in comparisons]
        wide = sorted({seeds for seeds, count in needed if seeds > count})
        if wide:
            ends = ' to '.join(
                f'{seeds:,}' if seeds <= MOST_SEEDS else f'more than {MOST_SEEDS:,}'
                for seeds in dict.fromkeys((wide[0], wide[-1]))
            )
            about = 'about ' if wide[0] <= MOST_SEEDS else ''
            counts.append(f'{about}{ends} seeds for {metric}')
    if not counts:
        return []
    return [f'An interval of ±{NARROW:g} points would take {" and ".join(counts)}']


def _machine(environment: Mapping) -> str:
    count = environment['threads']
    threads = '1 thread' if str(count) == '1' else f'{count} threads'
    return f'{environment["hardware"]}, {threads}, torch {environment["torch"]}'


def rows_at_start(weights: Mapping[str, dict]) -> list[str]:
    """The rows whose recorded quantiles of attention weights are all 1.00."""
    return [
        name
        for name, gates in weights.items()
        if gates and all(at_start([np.array(quantiles)]) for quantiles in gates.values())
    ]


def _range(quantiles: Sequence[float] | None) -> str:
    return '' if quantiles is None else f'{quantiles[0]:.2f} to {quantiles[-1]:.2f}'


def _difference(study: Study, row: Row, results: Path, metric: str) -> list[str]:
    comparison = difference(study, row, results, metric)
    if comparison is None:
        return [''] * 3
    first = next(iter(study.metrics_of(row)))
    pairs = pairs_note(comparison, len(values(study, row, results, first)))
    planned = _planned_pairs(study, row)
    return [f'{interval_cell(comparison)}{pairs}', _p(comparison), _verdict(comparison, planned)]


def pairs_note(comparison: Comparison, count: int) -> str:
    """The number of pairs behind a difference, if it is not `count`, the row's number of seeds."""
    if comparison.count == count:
        return ''
    return f', {comparison.count} pair{"s" if comparison.count > 1 else ""}'


def _verdict(comparison: Comparison, planned: int) -> str:
    if comparison.count < planned:  # the first few rounded values may agree by chance
        return f'{comparison.count} of {planned} pairs, no verdict yet'
    return comparison.verdict


def interval_cell(comparison: Comparison) -> str:
    """The mean difference and its 95% interval for a table, '+0.80 (-0.31 to +1.91)'."""
    mean = f'{round(comparison.mean, 2) + 0:+.2f}'
    if comparison.low is None:
        return mean
    return f'{mean} ({comparison.low:+.2f} to {comparison.high:+.2f})'


def _p(comparison: Comparison) -> str:
    if comparison.p is None:
        return ''
    return '< 0.001' if comparison.p < 0.001 else f'{comparison.p:.3f}'


def _planned_pairs(study: Study, row: Row) -> int:
    base = study.baseline(row)
    return 0 if base is None else len(set(row.seeds) & set(base.seeds))


def _paper_difference(study: Study, row: Row, metric: str) -> str:
    base = study.baseline(row)
    if base is None or metric not in row.paper or metric not in base.paper:
        return ''
    return f'{row.paper[metric] - base.paper[metric]:+.2f}'


def _figure(rows: Sequence[Row], key: str, row: Row, metric: str) -> str:
    """A row's result of the paper or of mmdet, with as many decimals as those of the other rows."""
    figures = [getattr(other, key).get(metric) for other in rows]
    decimals = max(len(str(figure).partition('.')[2]) for figure in figures if figure is not None)
    figure = getattr(row, key).get(metric)
    return '' if figure is None else f'{figure:.{decimals}f}'
