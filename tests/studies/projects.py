"""A project over the embedded digits, as `cbam-det init` makes one."""

from __future__ import annotations

from pathlib import Path

from ..conftest import CONFIGS

STUDY = """
title: Does CBAM help on my digits?
metrics: {AP: coco/bbox_mAP, AP50: coco/bbox_mAP_50}
seeds: [0, 1, 2]
rows:
  baseline: {config: baseline.py}
  CBAM: {config: cbam.py, against: baseline}
"""
DATA = """
_base_ = {config!r}
data = dict(data_root={root!r})
{splits}
val_evaluator = dict(ann_file={root!r} + '/annotations/instances_val2017.json')
test_evaluator = val_evaluator
"""
CBAM = """
_base_ = ['./baseline.py', {attention!r}]
model = dict(backbone=dict(type='WithPlugins', base_type='ResNet', plugins=_base_.plugins))
"""


def make_project(folder: Path, data: Path, config: str = 'faster_rcnn_r18_digits') -> Path:
    """Write the five files of a project over the digits in `data`; returns its folder."""
    folder.mkdir(parents=True)
    workers = 'num_workers=0, persistent_workers=False, dataset=data'
    splits = '\n'.join(f'{name}_dataloader = dict({workers})' for name in ('train', 'val', 'test'))
    base = str(CONFIGS / f'{config}.py')
    (folder / 'data.py').write_text(DATA.format(config=base, root=str(data), splits=splits))
    (folder / 'baseline.py').write_text("_base_ = './data.py'\n")
    attention = str(CONFIGS / '_base_' / 'attention' / 'cbam.py')
    (folder / 'cbam.py').write_text(CBAM.format(attention=attention))
    (folder / 'study.yaml').write_text(STUDY)
    (folder / 'README.md').write_text('A project.\n')
    return folder
