"""Training curves: loss, AP and learning rate of one or several runs, from their logs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ..evaluation.metrics import metric_name
from ..utils.errors import InputError
from ..utils.records import log_lines
from .figures import CYCLE, STYLE

# Names in MMEngine's scalars.json -> names in figures.
SERIES = {'loss': 'loss', 'lr': 'learning rate'}
SCORES = {'AP': '-', 'AP50': '--', 'VOC AP50': ':', 'VOC AP50, by area': '-.'}  # how they are drawn


def read_run(work_dir: str | Path) -> Run:
    """The log of a training from its work_dir; parts resumed later replace earlier steps.

    Raises:
        InputError: no training was logged there.
    """
    if Path(work_dir).is_file():
        raise InputError(f'{work_dir} is a file; give the work_dir that it lies in')
    values: dict[str, dict[int, float]] = {}
    for row in log_lines(work_dir):
        for name in row if 'step' in row else ():
            if label := SERIES.get(name) or metric_name(name):
                values.setdefault(label, {})[_step(row, values)] = row[name]
    if 'loss' not in values:
        raise InputError(f'{work_dir} holds no log of a training; give the work_dir of a run')
    series = {
        label: (sorted(points), [points[step] for step in sorted(points)])
        for label, points in values.items()
    }
    return Run(Path(work_dir).name, series)


def _step(row: dict, values: dict[str, dict[int, float]]) -> int:
    """Evaluations of an epoch-based run count epochs: put them at the last training step."""
    if 'iter' in row or 'loss' in row:
        return row['step']
    return max(values.get('loss', {row['step']: 0}))


@dataclass
class Run:
    """The log of one training: values by name, as steps and numbers."""

    name: str
    series: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)


def curves(runs: Sequence[Run]) -> Figure:
    """Loss, AP and learning rate against the step, a colour for each run."""
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
                marker = 'o' if axis is score else None
                axis.plot(steps, values, line, color=colour, label=label, marker=marker, ms=4)
        for axis, title in ((loss, 'training loss'), (score, 'AP'), (rate, 'learning rate')):
            axis.set(title=title, xlabel='step')
        score.set_ylim(0, 1)
        if score.lines:
            score.legend(fontsize=8)
        if len(runs) > 1:
            loss.legend(fontsize=8)
    return figure
