"""Run logs -> rows; this file imports no mmdet."""

from __future__ import annotations

import json
from pathlib import Path

from .errors import InputError
from .visualization.figures import Run

# Names in MMEngine's scalars.json -> names in figures.
SERIES = {
    'loss': 'loss',
    'lr': 'learning rate',
    'coco/bbox_mAP': 'AP',
    'coco/bbox_mAP_50': 'AP50',
    'pascal_voc/AP50': 'AP50',
}


def read_run(work_dir: str | Path) -> Run:
    """The log of a training from its work_dir; parts resumed later replace earlier steps.

    Raises:
        InputError: no training was logged there.
    """
    logs = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    values: dict[str, dict[int, float]] = {}
    for log in logs:
        for line in log.read_text(encoding='utf-8').splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # the line that an interrupted run did not finish
            for name, label in SERIES.items():
                if name in row and 'step' in row:
                    values.setdefault(label, {})[_step(row, values)] = row[name]
    if 'loss' not in values:
        raise InputError(f'{work_dir} holds no log of a training; give the work_dir of a run')
    series = {
        label: tuple(map(list, zip(*sorted(points.items()), strict=True)))
        for label, points in values.items()
    }
    return Run(Path(work_dir).name, series)


def _step(row: dict, values: dict[str, dict[int, float]]) -> int:
    """Evaluations of an epoch-based run count epochs: put them at the last training step."""
    if 'iter' in row or 'loss' in row:
        return row['step']
    return max(values.get('loss', {row['step']: 0}))
