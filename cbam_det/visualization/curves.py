"""Training curves: loss, AP and learning rate of one or more runs, from their logs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..evaluation.metrics import metric_name
from ..utils.errors import InputError
from ..utils.records import log_lines
from .figures import CYCLE, STYLE

# Names in MMEngine's scalars.json -> names in figures.
SERIES = {'loss': 'loss', 'lr': 'learning rate'}
SCORES = {'AP': '-', 'AP50': '--', 'VOC AP50': ':', 'VOC AP50, by area': '-.'}  # name -> line style


def read_log(work_dir: str | Path) -> TrainingLog:
    """Read the log of a training; where a later run repeats a step, it replaces all that follows.

    Raises:
        InputError: the folder has no training log.
    """
    if Path(work_dir).is_file():
        raise InputError(f'{work_dir} is a file; give the work_dir that contains it')
    values: dict[str, dict[int, float]] = {}
    last: int | None = None  # training step
    for row in log_lines(work_dir):
        if 'step' not in row:
            continue
        if 'iter' in row or 'loss' in row:
            if last is not None and row['step'] <= last:  # of a new or resumed run
                for points in values.values():
                    for step in [step for step in points if step >= row['step']]:
                        del points[step]
            last = row['step']
        # Evaluations are logged by epoch, so they get the last training step.
        step = row['step'] if last is None else last
        for name in row:
            if label := SERIES.get(name) or metric_name(name):
                values.setdefault(label, {})[step] = row[name]
    if not values.get('loss'):
        raise InputError(f'{work_dir} has no training log; give the work_dir of a training')
    series = {
        label: (sorted(points), [points[step] for step in sorted(points)])
        for label, points in values.items()
        if points
    }
    return TrainingLog(Path(work_dir).name, series)


@dataclass
class TrainingLog:
    """The log of one training: by name, a list of steps and a list of values."""

    name: str
    series: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)


def curves(runs: Sequence[TrainingLog]) -> Figure:
    """Plot loss, AP and learning rate over the steps, with one colour per run."""
    with plt.rc_context(STYLE):
        figure, (loss, score, rate) = plt.subplots(1, 3, figsize=(11, 3.4), sharex=True)
        for run, colour in zip(runs, CYCLE * math.ceil(len(runs) / len(CYCLE)), strict=False):
            for axis, name, line in (
                (loss, 'loss', '-'),
                *((score, name, line) for name, line in SCORES.items() if name in run.series),
                (rate, 'learning rate', '-'),
            ):
                steps, values = run.series.get(name, ([], []))
                label = run.name if axis is not score else f'{run.name} {name}'
                marker = 'o' if axis is score or len(steps) == 1 else None
                axis.plot(steps, values, line, color=colour, label=label, marker=marker, ms=4)
        for axis, title in ((loss, 'training loss'), (score, 'AP'), (rate, 'learning rate')):
            axis.set(title=title, xlabel='step')
            axis.xaxis.set_major_locator(MaxNLocator('auto', integer=True, min_n_ticks=1))
        loss.ticklabel_format(axis='y', useOffset=False)
        score.set_ylim(0, 1)
        if score.lines:
            score.legend(fontsize=8, handlelength=3)  # so that dashes show
        if len(runs) > 1:
            loss.legend(fontsize=8)
    return figure
