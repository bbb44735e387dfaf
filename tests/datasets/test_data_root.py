"""`--data-root` moves every file that a config reads, also the maps of a panoptic evaluator."""

from __future__ import annotations

import re

import pytest
from mmengine.config import Config
from mmengine.hub import get_config

from cbam_det.datasets.validation.data_root import set_data_root
from cbam_det.datasets.validation.evaluators import check_evaluators
from cbam_det.utils.errors import InputError
from cbam_det.utils.run_config import RunConfig


def test_evaluators_read_annotations_and_maps_from_the_new_root():
    cfg = get_config('mmdet::_base_/datasets/coco_panoptic.py')
    set_data_root(cfg, '/my/coco')
    assert cfg.val_evaluator.seg_prefix == '/my/coco/annotations/panoptic_val2017/'
    assert cfg.val_evaluator.ann_file == '/my/coco/annotations/panoptic_val2017.json'


def test_results_are_still_written_to_the_folder_of_the_config():
    loader = dict(dataset=dict(type='CocoDataset', data_root='./'))
    evaluator = dict(type='CocoMetric', ann_file='./val.json', outfile_prefix='./results/val')
    cfg = Config(dict(val_dataloader=loader, val_evaluator=evaluator))
    set_data_root(cfg, '/my')
    assert cfg.val_evaluator.ann_file == '/my/val.json'
    assert cfg.val_evaluator.outfile_prefix == './results/val'


def test_missing_folder_of_maps_is_an_error_before_the_run(tmp_path):
    cfg = get_config('mmdet::_base_/datasets/coco_panoptic.py')
    set_data_root(cfg, str(tmp_path))
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'annotations/panoptic_val2017.json').write_text('{}')
    run = RunConfig.from_cfg(cfg)
    place = re.escape(f"val_evaluator.seg_prefix='{tmp_path}/annotations/panoptic_val2017/'")
    with pytest.raises(InputError, match=f'^{place} is not a folder; give the folder'):
        check_evaluators(run.splits['val'], run.model)
    (tmp_path / 'annotations/panoptic_val2017').mkdir()
    check_evaluators(run.splits['val'], run.model)
