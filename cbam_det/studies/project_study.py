"""A project: a folder with a detector, the same detector with attention, and the study of the two.

`tools/init.py` makes it::

    data.py       data sets, classes, loaders
    baseline.py   a detector
    cbam.py       the same detector with attention
    study.yaml    the study of the two, as those of `experiments/`; see `study.py`

A comparison adds `work_dirs/` of the runs, `results/` with their records, and `report.html`; a
quick test has its own in `fast/`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from mmdet.registry import DATASETS
from mmengine.config import Config

from ..datasets.layouts.files import PROJECT_FILES
from ..datasets.validation.config import check_data
from ..datasets.validation.images import ENDINGS
from ..utils.config import enter_scope, walk
from ..utils.data_config import leaf_datasets
from ..utils.errors import InputError
from ..utils.installation import tool_command
from ..utils.run_config import RunConfig
from .study import Row, Study, check_configs, config_of, read_study

SPLITS = ('train', 'val', 'test')
# Optimiser steps, and images of the validation and of the test, in a quick test.
FAST_STEPS, FAST_IMAGES = 4, 8


@dataclass(frozen=True)
class ProjectStudy:
    """The study of a project as it is to be run, and where its runs and their records are.

    Attributes:
        folder: of its files.
        study: with the seeds and options that are to be run.
        is_fast: it is run as a quick test.
    """

    folder: Path
    study: Study
    is_fast: bool = False

    @classmethod
    def read(cls, folder: Path, seeds: int | None = None, fast: bool = False) -> ProjectStudy:
        """Read a project.

        Args:
            folder: of its files.
            seeds: runs of each row, with the seeds from 0; None for the seeds of the study.
            fast: as a quick test, with seed 0 alone.

        Raises:
            InputError: files are missing, and the command that makes them; or the study or, for a
                quick test, the data cannot be used.
        """
        study = _read_study(folder)
        if fast or seeds:
            rows = {
                name: replace(row, seeds=range(1 if fast else seeds or 0))
                for name, row in study.rows.items()
            }
            study = replace(study, rows=rows)
        project = cls(folder, study, fast)
        return replace(project, study=_shortened(project)) if fast else project

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

    @property
    def shown(self) -> list[Row]:
        """The rows that have a baseline, and the baselines."""
        baselines = {row.against for row in self.compared}
        return [row for row in self.study.rows.values() if row.against or row.name in baselines]

    def command(self, *options: str) -> str:
        """The shell command of the comparison."""
        return tool_command('compare', self.folder, *options)


def _read_study(folder: Path) -> Study:
    missing = [name for name in PROJECT_FILES if not (folder / name).is_file()]
    if missing:
        raise _not_a_project(folder, missing)
    path = folder / 'study.yaml'
    study = read_study(path)
    check_configs(path, study)
    if not any(row.against for row in study.rows.values()):
        raise InputError(f'{path}: no row has `against`; give one the name of its baseline')
    return study


def _not_a_project(folder: Path, missing: list[str]) -> InputError:
    names = ', '.join(missing)
    make = tool_command('init', 'DATA', '--out', folder)
    if not folder.is_dir():
        return InputError(
            f'there is no folder {folder}; make a project from your images in DATA: {make}'
        )
    if any(path.suffix.lower() in ENDINGS for path in folder.rglob('*')):
        return InputError(
            f'{folder} has images, but no {names}; first make a project from the images: '
            f'{tool_command("init", folder)}'
        )
    return InputError(f'{folder} has no {names}; make them from your images in DATA: {make}')


def _shortened(project: ProjectStudy) -> Study:
    """The study as a quick test: a few steps and images, and detections of any score.

    After a few steps no score reaches the usual thresholds, and mmdet logs no AP where nothing is
    detected.
    """
    study, rows = project.study, {}
    for name, row in study.rows.items():
        options = _fast_options(config_of(study, row, row.seeds[0]), project.output / 'data')
        rows[name] = replace(row, overrides={**row.overrides, **options})
    return replace(study, rows=rows)


def _fast_options(cfg: Config, folder: Path) -> dict[str, object]:
    check_data(RunConfig.from_cfg(cfg), SPLITS)
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
            if len(DATASETS.build(leaf)) <= images:
                continue
            evaluated = [
                node_path
                for node_path, node in walk(cfg.get(f'{split}_evaluator'), f'{split}_evaluator')
                if node.get('ann_file')
            ]
            if not evaluated:
                options[f'{path}.indices'] = images
                continue
            # COCO's metrics evaluate all images of their file, so that it has to be a part as well.
            annotations = Path(leaf.get('data_root') or '', leaf['ann_file'])
            part = str(_part_of(annotations, images, folder / f'{split}.json').resolve())
            options |= {f'{place}.ann_file': part for place in (path, *evaluated)}
    return options


def _part_of(annotations: Path, images: int, out: Path) -> Path:
    """Write the first images of a file in COCO's format, with their objects, to `out`.

    Images without objects other than crowds are taken last: a part of them alone has no AP.
    """
    content = json.loads(annotations.read_text(encoding='utf-8'))
    objects = {item['image_id'] for item in content['annotations'] if not item.get('iscrowd')}
    by_objects = sorted(content['images'], key=lambda image: image['id'] not in objects)
    content['images'] = by_objects[:images]
    kept = {image['id'] for image in content['images']}
    content['annotations'] = [item for item in content['annotations'] if item['image_id'] in kept]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content), encoding='utf-8')
    return out
