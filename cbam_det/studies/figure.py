"""A study as a figure: every seed, learning curves, gain against cost."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..utils.errors import InputError
from ..visualization.figures import CYCLE, STYLE
from .comparison import mean_interval
from .records import read_record
from .study import Row, Study, command_of_study, cost_path, read_json
from .verdicts import difference, values


def study_figure(study: Study, results: Path) -> Figure:
    """Plot the rows of `study` that have records, in two or three panels side by side.

    1. The first metric of every seed, with a marker shape for each seed, and the mean with its 95%
       interval (Student's t).
    2. The metric at each validation (or the training loss, if there was no validation), as the mean
       over the seeds that a baseline shares with all rows compared with it.
    3. If costs are recorded: the difference to the baseline, paired by seeds, against the increase
       of the time of a training step.

    Rows with different metrics get panels of their own, one below the other. The first twelve rows
    differ in colour or style; all panels share one legend.

    Raises:
        InputError: no run is recorded.
    """
    groups = [
        [row for row in rows if values(study, row, results, next(iter(study.metrics_of(row))))]
        for rows in study.measured_alike()
    ]
    groups = [rows for rows in groups if rows]
    if not groups:
        raise InputError(
            f'no run of {study.name} is recorded in {results}; make records: '
            f'{command_of_study("run", study)}'
        )
    cost = cost_path(results, study)
    names = [row.name for rows in groups for row in rows]
    styles = {name: _style(number) for number, name in enumerate(names)}
    with plt.rc_context(STYLE):
        height = 0.9 + 1.5 * len(groups) + 0.5 * len(names)
        ratios = (1.25, 1, 1)[: 2 + cost.is_file()]
        figure, panels = plt.subplots(
            len(groups),
            len(ratios),
            figsize=(4 * len(ratios) + 1, height),
            width_ratios=ratios,
            height_ratios=[3 + len(rows) for rows in groups],
            squeeze=False,
        )
        for rows, (seeds, curve, *rest) in zip(groups, panels, strict=True):
            first = next(iter(study.metrics_of(rows[0])))
            _seeds(seeds, study, rows, results, styles)
            seeds.set(
                xlabel=f'test {first}, % (one marker shape per seed)',
                title='all seeds, mean, 95% interval',
            )
            _curves(curve, study, rows, results, styles)
            for gain in rest:
                times = read_json(cost)['rows']
                if not any(row.name in times for row in rows):  # such as classifiers
                    gain.set_visible(False)
                    continue
                _gains(gain, study, rows, results, styles, times)
                gain.set(title='gain against cost', ylabel=f'{first}, difference')
                gain.set_xlabel('increase of training step time, %')
        figure.legend(
            [Line2D([], [], marker='o', **style) for style in styles.values()],
            [fill(name, 40) for name in styles],
            loc='outside lower center',
            ncols=len(ratios),
            frameon=False,
        )
    return figure


def _style(number: int) -> dict[str, Any]:
    style = dict(color=CYCLE[number % len(CYCLE)])
    return style | dict(fillstyle='none', linestyle='--') if number // len(CYCLE) % 2 else style


MARKS = 'osD^v<>pP*'  # one per seed, the same in all rows


def _seeds(
    axis: plt.Axes, study: Study, rows: list[Row], results: Path, styles: dict[str, dict]
) -> None:
    first = next(iter(study.metrics_of(rows[0])))
    seeds = sorted({seed for row in study.rows.values() for seed in row.seeds})
    for position, row in enumerate(rows):
        by_seed = values(study, row, results, first)
        for seed, value in by_seed.items():
            marker = MARKS[seeds.index(seed) % len(MARKS)]
            axis.plot(value, position, marker=marker, ms=5, alpha=0.7, **styles[row.name])
        mean, low, high = mean_interval(list(by_seed.values()))
        errors = None if low is None or high is None else [[mean - low], [high - mean]]
        axis.errorbar(mean, position - 0.25, xerr=errors, fmt='|', color='black', ms=9, capsize=3)
    axis.set_yticks(range(len(rows)), [fill(row.name, 30) for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.6)
    axis.xaxis.set_major_locator(MaxNLocator(4))  # whose labels may have four digits


def _gains(
    axis: plt.Axes,
    study: Study,
    rows: list[Row],
    results: Path,
    styles: dict[str, dict],
    times: dict,
) -> None:
    first = next(iter(study.metrics_of(rows[0])))
    for row in rows:
        comparison = difference(study, row, results, first)
        if comparison is None:
            continue
        if not {row.name, row.against} <= set(times):
            raise InputError(
                f'the record of costs of {study.name} has no row {row.name!r}; measure again: '
                f'{command_of_study("cost", study)}'
            )
        base = times[row.against]['train_ms'][0]
        slowdown, low, high = (100 * (ours / base - 1) for ours in times[row.name]['train_ms'])
        x_errors = [[slowdown - low], [high - slowdown]]
        if comparison.low is None or comparison.high is None:
            y_errors = None
        else:
            y_errors = [[comparison.mean - comparison.low], [comparison.high - comparison.mean]]
        axis.errorbar(
            slowdown, comparison.mean, y_errors, x_errors, marker='o', capsize=3, **styles[row.name]
        )
    axis.axhline(0, color='black', lw=0.8)


def _baseline(row: Row) -> str:
    return row.against or row.name


def _scores(record: dict, key: str, scale: float) -> dict[int, float]:
    """A metric of a run by the step of its validation."""
    return {
        int(step): scale * metrics[key]
        for step, metrics in record['validation'].items()
        if metrics.get(key) is not None
    }


def _curves(
    axis: plt.Axes, study: Study, rows: list[Row], results: Path, styles: dict[str, dict]
) -> None:
    first, key = next(iter(study.metrics_of(rows[0]).items()))
    records: dict[str, dict[int, dict]] = {row.name: {} for row in rows}
    for row, seed in study.runs(rows):
        if record := read_record(results, study, row, seed):
            records[row.name][seed] = record
    # mmdet logs no metric if the detector found nothing.
    validated = any(
        key in metrics
        for by_seed in records.values()
        for record in by_seed.values()
        for metrics in record['validation'].values()
    )
    all_shared = True
    for row in rows:
        # Rows with the same baseline are averaged over the seeds that all of them have.
        same_baseline = [other.name for other in rows if _baseline(other) == _baseline(row)]
        shared = set.intersection(*(set(records[name]) for name in same_baseline))
        all_shared &= bool(shared)
        lines = [
            _scores(records[row.name][seed], key, study.scale_of(row))
            if validated
            else {int(step): loss for step, loss in records[row.name][seed]['loss'].items()}
            for seed in sorted(shared or records[row.name])
        ]
        steps = sorted(set.intersection(*map(set, lines)))
        means = [np.mean([line[step] for line in lines]) for step in steps]
        axis.plot(steps, means, marker='o', ms=4, **styles[row.name])
    axis.xaxis.set_major_locator(
        MaxNLocator('auto', steps=[1, 2, 4, 5, 10], integer=True, min_n_ticks=1)
    )
    title = 'validation' if validated else 'training'
    axis.set(
        title=f'{title} (shared seeds)' if all_shared else title,
        xlabel='epoch or step',
        ylabel=f'{first}, %' if validated else 'mean loss of the epoch',
    )
