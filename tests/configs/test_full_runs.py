"""Run the rows of tables 6 and 7 with `tools/experiment.py run`, on a few images.

The data have the folders, files and classes of COCO and VOC. Overrides shorten the runs, shrink the
images and remove pretrained weights; all else is as in the full run.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from mmdet.datasets import CocoDataset, VOCDataset

from cbam_det.studies.records import read_record
from cbam_det.studies.study import read_study

from ..conftest import ROOT, in_process

DIGITS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
ROWS = [
    (table, row)
    for table in ('table6', 'table7')
    for row in read_study(ROOT / 'experiments' / f'{table}.yaml').rows
]
ONE_PROCESS = {'default_hooks.logger.interval': 1} | {
    f'{split}_dataloader.{option}': value
    for split in ('train', 'val', 'test')
    for option, value in (('num_workers', 0), ('persistent_workers', False))
}
SHORT = {
    'table6': {
        'model.backbone.init_cfg': None,
        'model.roi_head.shared_head.init_cfg': None,
        # So that a model with random weights detects anything.
        'model.data_preprocessor.std': [60, 60, 60],
        'model.test_cfg.rcnn.score_thr': 0,
        'train_cfg.max_iters': 2,
        'train_cfg.val_interval': 2,
        'default_hooks.checkpoint.interval': 2,
        'train_dataloader.dataset.pipeline.2.scale': '(96,96)',
        'val_dataloader.dataset.pipeline.1.scale': '(96,96)',
        'test_dataloader.dataset.pipeline.1.scale': '(96,96)',
    },
    'table7': {
        'model.backbone.init_cfg': None,
        'train_cfg.max_epochs': 1,
        'train_dataloader.batch_size': 2,
        'train_dataloader.dataset.times': 1,
        'train_dataloader.dataset.dataset.datasets.0.indices': 2,
        'train_dataloader.dataset.dataset.datasets.1.indices': 2,
    },
}


@pytest.fixture(scope='module')
def sets(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The small digits with the class names of COCO and of VOC."""
    root = tmp_path_factory.mktemp('sets')
    coco, voc = root / 'coco', root / 'VOCdevkit'
    shutil.copytree(digits, coco, ignore=shutil.ignore_patterns('VOCdevkit'))
    for path in (coco / 'annotations').glob('*.json'):
        content = json.loads(path.read_text())
        ids = [category['id'] for category in content['categories']]
        free_ids = (number for number in range(1000) if number not in ids)
        ids += [next(free_ids) for _ in CocoDataset.METAINFO['classes'][len(ids) :]]
        content['categories'] = [
            dict(id=number, name=name)
            for number, name in zip(ids, CocoDataset.METAINFO['classes'], strict=True)
        ]
        path.write_text(json.dumps(content))
    for year in ('VOC2007', 'VOC2012'):
        shutil.copytree(digits / 'VOCdevkit' / 'VOC2007', voc / year)
        for path in (voc / year / 'Annotations').glob('*.xml'):
            text = path.read_text()
            for digit, name in zip(DIGITS, VOCDataset.METAINFO['classes'], strict=False):
                text = text.replace(f'<name>{digit}<', f'<name>{name}<')
            path.write_text(text)
    return {'table6': coco, 'table7': voc}


@pytest.mark.slow
@pytest.mark.parametrize(('table', 'row'), ROWS, ids=[' '.join(row) for row in ROWS])
def test_row_of_a_full_study_trains_tests_and_is_recorded_on_small_data(table, row, sets, tmp_path):
    content = yaml.safe_load((ROOT / 'experiments' / f'{table}.yaml').read_text())
    content['options'] = {**content.get('options', {}), **SHORT[table], **ONE_PROCESS}
    content['gpus'] = 1
    path = tmp_path / 'studies' / f'{table}.yaml'
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    results = tmp_path / 'results'
    status = in_process('experiment')(
        *('--studies', path.parent, '--results', results, 'run', table, '--row', row, '--seed', 0),
        *('--data-root', sets[table], '--work-dirs', tmp_path / 'work'),
    )
    assert status == 0
    study = read_study(path)
    record = read_record(results, study, study.rows[row], 0)
    assert record['config'] == study.rows[row].config
    assert set(study.metrics.values()) <= set(record['metrics'])
    losses = list(record['loss'].values())
    assert losses and all(0 < loss < 1000 for loss in losses)
