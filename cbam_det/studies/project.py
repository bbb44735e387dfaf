"""A project: a folder with a detector, the same detector with attention, and the study of the two.

`tools/init.py` makes it::

    data.py       data sets, classes, loaders
    baseline.py   a detector
    cbam.py       the same detector with attention
    study.yaml    the study of the two, as those of `experiments/`; see `study.py`

A comparison adds `work_dirs/` of the runs, `results/` with their records, and `report.html`; a
smoke run has its own in `fast/`.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from mmdet.registry import DATASETS
from mmengine.config import Config

from ..datasets.validation.config import check_data
from ..utils.config import enter_scope, walk
from ..utils.environment import tool_command
from ..utils.errors import InputError
from ..utils.run_config import leaf_datasets
from .study import Row, Study, check_configs, config_of, read_study

FILES = ('data.py', 'baseline.py', 'cbam.py', 'study.yaml')
SPLITS = ('train', 'val', 'test')
IMAGES = ('.jpg', '.jpeg', '.png', '.bmp')
# Optimiser steps, and images of the validation and of the test, in a smoke run.
FAST_STEPS, FAST_IMAGES = 4, 8


@dataclass(frozen=True)
class Project:
    """A project, and where its runs and their records are.

    Attributes:
        folder: of its files.
        study: with the seeds and options that are to be run.
        is_fast: it is run as a smoke run.
    """

    folder: Path
    study: Study
    is_fast: bool = False

    @classmethod
    def read(cls, folder: Path, seeds: int | None = None, fast: bool = False) -> Project:
        """Read a project.

        Args:
            folder: of its files.
            seeds: runs of each row, with the seeds from 0; None for the seeds of the study.
            fast: as a smoke run, with seed 0 alone.

        Raises:
            InputError: files are missing, and the command that makes them; or the study or, for a
                smoke run, the data cannot be used.
        """
        study = _read_study(folder)
        if fast or seeds:
            rows = {
                name: replace(row, seeds=range(1 if fast else seeds or 0))
                for name, row in study.rows.items()
            }
            study = replace(study, rows=rows)
        return cls(folder, _shortened(study) if fast else study, fast)

    @property
    def output(self) -> Path:
        """The folder of what a comparison writes."""
        return self.folder / 'fast' if self.is_fast else self.folder

    @property
    def results(self) -> Path:
        """The folder of the records."""
        return self.output / 'results'

    @property
    def work_dirs(self) -> Path:
        """The folder of the runs' work_dirs."""
        return self.output / 'work_dirs'

    @property
    def compared(self) -> list[Row]:
        """The rows that have a baseline."""
        return [row for row in self.study.rows.values() if row.against]

    def command(self, *options: str) -> str:
        """The shell command of the comparison."""
        return shlex.join([*tool_command('compare'), str(self.folder), *options])


def _read_study(folder: Path) -> Study:
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise _not_a_project(folder, missing)
    path = folder / 'study.yaml'
    study = read_study(path)
    check_configs(path, study)
    if not any(row.against for row in study.rows.values()):
        raise InputError(f'{path}: no row has `against`; give one the name of its baseline')
    return study


def _not_a_project(folder: Path, missing: list[str]) -> InputError:
    init, names = tool_command('init'), ', '.join(missing)
    if not folder.is_dir():
        make = shlex.join([*init, 'DATA', '--out', str(folder)])
        return InputError(
            f'there is no folder {folder}; make a project from your images in DATA: {make}'
        )
    if any(path.suffix.lower() in IMAGES for path in folder.rglob('*')):
        make = shlex.join([*init, str(folder)])
        return InputError(
            f'{folder} has no {names}, but images; make a project from them, and compare that: '
            f'{make}'
        )
    make = shlex.join([*init, 'DATA', '--out', str(folder)])
    return InputError(f'{folder} has no {names}; make them from your images in DATA: {make}')


def _shortened(study: Study) -> Study:
    """The study as a smoke run: a few steps and images, and detections of any score.

    After a few steps no score reaches the usual thresholds, and mmdet logs no AP where nothing is
    detected.
    """
    rows = {}
    for name, row in study.rows.items():
        options = _fast_options(config_of(study, row, row.seeds[0]))
        rows[name] = replace(row, overrides={**row.overrides, **options})
    return replace(study, rows=rows)


def _fast_options(cfg: Config) -> dict[str, object]:
    check_data(cfg, SPLITS)
    length = 'max_iters' if cfg.train_cfg.get('max_iters') else 'max_epochs'
    count = FAST_STEPS if length == 'max_iters' else 1
    options: dict[str, object] = {f'train_cfg.{length}': count, 'train_cfg.val_interval': count}
    options |= {f'default_hooks.{hook}.interval': 1 for hook in ('checkpoint', 'logger')}
    for path, node in walk(cfg.model, 'model'):
        if 'score_thr' in node:
            options[f'{path}.score_thr'] = 0.0
    enter_scope(cfg)
    for split in SPLITS:
        loader = cfg.get(f'{split}_dataloader')
        if not loader:
            continue
        images = FAST_IMAGES if split != 'train' else FAST_STEPS * loader.get('batch_size', 1)
        for path, leaf in leaf_datasets(loader.dataset, f'{split}_dataloader.dataset'):
            if len(DATASETS.build(leaf)) > images:
                options[f'{path}.indices'] = images
    return options
