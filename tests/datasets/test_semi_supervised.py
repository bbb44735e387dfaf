"""Unlabelled images of a semi-supervised training need no annotations, the others do."""

from __future__ import annotations

import json

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from cbam_det.datasets.validation.config import check_data
from cbam_det.datasets.validation.dataset import Summary
from cbam_det.utils.errors import InputError
from cbam_det.utils.run_config import RunConfig

from .damaged_sets import PACK, coco, picture

LOAD = dict(type='LoadImageFromFile')
LABELLED = [LOAD, dict(type='LoadAnnotations', with_bbox=True), PACK]
# As in mmdet's `_base_/datasets/semi_coco_detection.py`.
UNLABELLED = [LOAD, dict(type='LoadEmptyAnnotations', with_mask=True), PACK]


def check(*datasets: dict) -> dict[str, Summary]:
    init_default_scope('mmdet')
    joined = dict(type='ConcatDataset', datasets=[dict(dataset) for dataset in datasets])
    cfg = Config(dict(train_dataloader=dict(dataset=joined)))
    return check_data(RunConfig.from_cfg(cfg), ('train',))


@pytest.mark.parametrize('annotations', [{}, dict(annotations=[])])
def test_unlabelled_images_need_no_annotations(annotations, tmp_path):
    """With or without an empty list, as mmdet's guide of semi-supervised detection has them."""
    labelled = dict(coco(tmp_path), pipeline=LABELLED)
    content = json.loads((tmp_path / 'train.json').read_text())
    del content['annotations']
    content['images'] = [dict(content['images'][0], file_name='three.jpg')]
    (tmp_path / 'unlabelled.json').write_text(json.dumps(content | annotations))
    picture(tmp_path / 'train/three.jpg', 3)
    unlabelled = dict(labelled, ann_file='unlabelled.json', filter_cfg={})
    summaries = check(labelled, dict(unlabelled, pipeline=UNLABELLED))
    assert [(item.images, item.objects) for item in summaries.values()] == [(2, 4), (1, 0)]
    with pytest.raises(InputError, match=r"lacks the list 'annotations'|has no annotations"):
        check(labelled, dict(unlabelled, pipeline=LABELLED))
