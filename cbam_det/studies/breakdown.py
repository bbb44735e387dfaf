"""COCO's AP of a study's rows by object size and by class, compared with their baselines."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..evaluation.metrics import class_of_metric
from ..utils.records import table_head, table_row
from .comparison import Comparison, compare
from .records import read_record
from .study import Row, Study
from .verdicts import interval_cell

SIZES = dict(s='small objects', m='medium objects', l='large objects')


def breakdown(study: Study, results: Path) -> str:
    """The `breakdown_tables` as Markdown."""
    blocks = []
    for (head, *rows), note in breakdown_tables(study, results):
        blocks += ['\n'.join([*table_head(head), *map(table_row, rows)]), note]
    return '\n\n'.join(filter(None, blocks)) or 'no detector is recorded together with its baseline'


def breakdown_tables(study: Study, results: Path) -> list[tuple[list[list[str]], str]]:
    """Compare COCO's AP with the baseline by object size and by class.

    In percent, paired by seeds, with 95% intervals; classes go from the largest gain to the largest
    loss. Classifiers and rows without records have no table.

    Returns:
        For each row of the study its table, whose first line is the header, and a note on it.
    """
    tables = []
    for row in study.rows.values():
        base = study.baseline(row)
        if base is None:
            continue
        ours, theirs = (_coco_values(study, compared_row, results) for compared_row in (row, base))
        comparisons: dict[str, Comparison] = {}
        for name in ours:
            if comparison := compare(ours[name], theirs.get(name, {})):
                comparisons[name] = comparison
        if not comparisons:
            continue
        sizes = [name for name in SIZES.values() if name in comparisons]
        classes = sorted(
            comparisons.keys() - {*sizes},
            key=lambda name: (-round(comparisons[name].mean, 2), name),
        )
        lines = [[f'{row.name}, AP', 'n', base.name, 'difference']]
        for name in [*sizes, *classes]:
            baseline_mean = np.mean(
                [theirs[name][seed] for seed in theirs[name] if seed in ours[name]]
            )
            comparison = comparisons[name]
            count = str(comparison.count)
            lines.append([name, count, f'{baseline_mean:.2f}', interval_cell(comparison)])
        note = ''
        if any(comparisons[name].low is not None for name in classes):
            verdicts = [comparisons[name].verdict for name in classes]
            significant = sum(verdict in ('better', 'worse') for verdict in verdicts)
            note = (
                f'For {significant} of {len(classes)} classes the interval excludes 0; by chance '
                f'alone, about {0.05 * len(classes):g} would.'
            )
        tables.append((lines, note))
    return tables


def _coco_values(study: Study, row: Row, results: Path) -> dict[str, dict[int, float]]:
    """COCO's AP of a row in percent, by object size or class name, then by seed."""
    by_name: dict[str, dict[int, float]] = {}
    for seed in row.seeds:
        record = read_record(results, study, row, seed) or dict(metrics={})
        for key, value in record['metrics'].items():
            name = SIZES.get(key.removeprefix('coco/bbox_mAP_')) or class_of_metric(key)
            if key.startswith('coco/') and name and value is not None and value >= 0:
                by_name.setdefault(name, {})[seed] = 100 * value
    return by_name
