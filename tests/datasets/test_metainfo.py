"""Numbers of classes, palettes and joined data sets are compared before the run."""

from __future__ import annotations

import shlex

import pytest
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import init_default_scope

from cbam_det.datasets.validation.metainfo import (
    check_metainfo,
    check_num_classes,
    palette_problem,
)
from cbam_det.utils.errors import InputError
from cbam_det.utils.options import parse_options

from ..conftest import CONFIG

COLOURS = [(0, 0, 0), (9, 9, 9)]


def with_remedy(cfg: Config, message: str) -> Config:
    """The config with the `--cfg-options` of a message applied."""
    words = message.partition('--cfg-options ')[2].partition(', or')[0]
    changed = cfg.copy()
    changed.merge_from_dict(parse_options(shlex.split(words)))
    return changed


def coco(**metainfo: object) -> dict:
    return dict(type='CocoDataset', metainfo=dict(classes=('cat', 'dog'), **metainfo))


def config(dataset: dict, model: dict | None = None, **keys: object) -> Config:
    init_default_scope('mmdet')
    loaders = {f'{name}_dataloader': dict(dataset=dataset) for name in ('train', 'val', 'test')}
    return Config(dict(model=model or {}, **loaders, **keys))


def refused(cfg: Config, split: str = 'val') -> str:
    with pytest.raises(InputError) as caught:
        check_metainfo(cfg, split)
    return str(caught.value)


def test_every_head_of_a_shipped_detector_is_compared_and_the_remedy_fits():
    model = Config.fromfile(CONFIG).model
    check_num_classes(model, ('a',) * 10)
    cfg = config(coco(), model)
    message = refused(cfg)
    assert message.startswith(
        'model.roi_head.bbox_head.num_classes=10, but the data set has 2 classes (cat, dog); give '
    )
    check_metainfo(with_remedy(cfg, message), 'val')


@pytest.mark.parametrize(
    ('model', 'path'),
    [
        (dict(mask_head=dict(num_classes=80)), 'model.mask_head'),
        (dict(roi_head=dict(mask_head=[dict(num_classes=3)])), 'model.roi_head.mask_head.0'),
        (dict(roi_head=dict(mask_iou_head=dict(num_classes=3))), 'model.roi_head.mask_iou_head'),
        (
            dict(roi_head=dict(bbox_head=dict(num_classes=2, loss_cls=dict(num_classes=1203)))),
            'model.roi_head.bbox_head.loss_cls',
        ),
        (
            dict(bbox_head=dict(head_module=dict(num_classes=80))),
            'model.bbox_head.head_module',
        ),
        (dict(train_cfg=dict(assigner=dict(num_classes=80))), 'model.train_cfg.assigner'),
    ],
)
def test_number_of_classes_is_checked_in_heads_losses_and_assigners(model, path):
    message = refused(cfg := config(coco(), model))
    assert message.startswith(f'{path}.num_classes=') and 'has 2 classes' in message
    check_metainfo(with_remedy(cfg, message), 'val')


def test_remedy_reaches_a_detector_inside_another_model():
    model = dict(type='SoftTeacher', detector=dict(bbox_head=dict(num_classes=80)))
    message = refused(cfg := config(coco(), model))
    assert message.startswith('model.detector.bbox_head.num_classes=80, but the data set has 2')
    check_metainfo(with_remedy(cfg, message), 'val')


def test_numbers_of_other_classes_than_the_objects_pass():
    semantic = dict(roi_head=dict(semantic_head=dict(num_classes=183)))  # HTC's maps
    text = dict(bbox_head=dict(num_classes=256), language_model=dict(type='BertModel'))
    for model in (semantic, text, dict(rpn_head=dict(num_classes=1))):
        check_metainfo(config(coco(), model), 'val')


def test_panoptic_heads_have_the_things_and_the_stuff_of_the_data_set():
    init_default_scope('mmdet')
    for name in ('mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py',):
        cfg = get_config(f'mmdet::{name}')
        check_metainfo(cfg, 'val')
        own = dict(classes=('cat', 'sky'), thing_classes=('cat',), stuff_classes=('sky',))
        cfg.val_dataloader.dataset.metainfo = own
        message = refused(cfg)
        assert 'model.panoptic_head.loss_cls.class_weight has 134 numbers for 2 classes' in message
        cfg.model.panoptic_head.loss_cls.class_weight = [1.0] * 2 + [0.1]
        message = refused(cfg)
        assert message.startswith('model.panoptic_head.num_things_classes=80, but the data set has')
        check_metainfo(with_remedy(cfg, message), 'val')


def test_data_set_without_stuff_needs_0_stuff_classes():
    heads = dict(panoptic_head=dict(num_things_classes=2, num_stuff_classes=53))
    message = refused(cfg := config(coco(), heads))
    assert message.startswith(
        'model.panoptic_head.num_stuff_classes=53, but the data set has 0 stuff classes; give'
    )
    check_metainfo(with_remedy(cfg, message), 'val')


def test_joined_sets_that_differ_are_rejected_with_an_option_that_works():
    """Otherwise ConcatDataset's metainfo is a list, in which no metric finds the classes."""
    sets = [coco(palette=COLOURS), coco()]
    cfg = config(dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset')))
    cfg.train_dataloader.dataset.dataset.datasets = sets
    message = refused(cfg, 'train')
    assert message.startswith(
        'train_dataloader.dataset.dataset joins data sets that differ in metainfo.palette'
    )
    check_metainfo(with_remedy(cfg, message), 'train')
    built = [dict(dataset, lazy_init=True) for dataset in sets]
    joined = dict(type='ConcatDataset', datasets=built, lazy_init=True)
    assert isinstance(DATASETS.build(joined).metainfo, list)
    assert DATASETS.build(dict(joined, ignore_keys=['palette'])).metainfo['classes']


def test_years_of_voc_are_joined_as_mmdet_s_config_does():
    years = [
        dict(type='VOCDataset', data_prefix=dict(sub_data_root=f'VOC{year}/'))
        for year in (2007, 2012)
    ]
    joined = dict(type='ConcatDataset', datasets=years)
    assert 'differ in metainfo.dataset_type, so' in refused(config(joined))
    check_metainfo(config(dict(joined, ignore_keys=['dataset_type'])), 'val')


def test_joined_sets_with_separate_evaluators_may_have_different_colours():
    joined = dict(type='ConcatDataset', datasets=[coco(palette=COLOURS), coco()])
    evaluator = dict(type='MultiDatasetsEvaluator', metrics=[], dataset_prefixes=['a', 'b'])
    check_metainfo(config(joined, val_evaluator=evaluator), 'val')


@pytest.mark.parametrize(
    ('palette', 'words'),
    [
        ([(0, 0, 0)], 'has 1 colours for 2 classes'),
        (tuple(COLOURS), 'is a tuple of colours, but mmdet needs a list'),
        (7, 'is 7, which mmdet rejects: Invalid type for palette'),
        (COLOURS, None),
        ((0, 0, 0), None),
        ('random', None),
    ],
)
def test_unusable_palette_is_reported_with_an_option_that_works(palette, words):
    cfg = config(coco(palette=palette))
    problem = palette_problem(cfg, 'test')
    assert (problem is None) == (words is None)
    if problem:
        assert problem.startswith(f'test_dataloader.dataset.metainfo.palette {words}')
        assert palette_problem(with_remedy(cfg, problem), 'test') is None


def test_more_classes_than_colours_of_a_data_set_are_reported():
    many = dict(type='VOCDataset', metainfo=dict(classes=tuple(map(str, range(30)))))
    problem = palette_problem(config(many), 'test')
    assert 'has 20 colours for 30 classes' in problem
