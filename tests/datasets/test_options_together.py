"""Dataloaders, pipelines, metrics and hooks that do not fit together are reported before a run."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import pytest
from mmengine.config import Config

from cbam_det.datasets.validation.config import check_options
from cbam_det.datasets.validation.metric_options import note_limits
from cbam_det.utils.config import read_config
from cbam_det.utils.errors import InputError
from cbam_det.utils.run_config import RunConfig

from ..conftest import CONFIG, CONFIGS

VOC = str(CONFIGS / 'ssd300_vgg16_cbam_voc.py')
MOSAIC = dict(type='Mosaic', img_scale=(64, 64))
STOP = dict(type='EarlyStoppingHook', monitor='bbox_mAP')

cached = cache(read_config)


def changed(config: str, **keys: object) -> Config:
    """A shipped config with some keys replaced; `a__0__b` means `a[0].b`."""
    cfg = copy.deepcopy(cached(config))
    for path, value in keys.items():
        *parts, last = (int(part) if part.isdigit() else part for part in path.split('__'))
        node = cfg
        for part in parts:
            node = node[part]
        node[last] = value
    return cfg


def check(cfg: Config) -> None:
    run = RunConfig.from_cfg(cfg)
    check_options(run, list(run.splits.values()))


@pytest.mark.parametrize(
    'name',
    [
        'faster_rcnn_r50_cbam_digits',
        'faster_rcnn_r50_cbam_voc07',
        'retinanet_mobilenetv2_cbam_bccd',
        'rtmdet_tiny_cbam',
        'ssd300_vgg16_cbam_voc',
    ],
)
def test_shipped_configs_pass(name):
    check(cached(str(CONFIGS / f'{name}.py')))


@pytest.mark.parametrize(
    ('config', 'keys', 'words'),
    [
        (CONFIG, dict(test_dataloader__drop_last=True), 'test_dataloader: drop_last=True skips'),
        (
            CONFIG,
            dict(test_dataloader__batch_sampler=dict(type='X', drop_last=True)),
            'test_dataloader: drop_last=True skips',
        ),
        (
            CONFIG,
            dict(train_dataloader__dataset__filter_cfg=dict(min_size='32')),
            "train_dataloader.dataset.filter_cfg.min_size='32' is a string; give a number",
        ),
        (
            CONFIG,
            dict(default_hooks__checkpoint__save_best=[1]),
            r'default_hooks.checkpoint.save_best=\[1\] is a list; give a string',
        ),
        (
            CONFIG,
            dict(train_dataloader__dataset__metainfo=dict(classes=Path('names.txt'))),
            'metainfo.classes=PosixPath.* give the names in their order',
        ),
        (
            CONFIG,
            dict(
                val_dataloader__dataset__test_mode=False,
                val_dataloader__dataset__filter_cfg=dict(filter_empty_gt=True),
            ),
            'val_dataloader: filter_cfg=.* leaves images out .*; give test_mode=True',
        ),
        (
            CONFIG,
            dict(train_dataloader__dataset__pipeline__2=MOSAIC),
            'Mosaic mixes several images, but the pipeline of CocoDataset has only one',
        ),
        (
            CONFIG,
            dict(train_dataloader__dataset__pipeline__1=dict(type='Resize', scale=(64, 64))),
            'the pipeline of CocoDataset loads no annotations',
        ),
        (
            CONFIG,
            dict(
                test_evaluator__ann_file=None,
                test_dataloader__dataset__pipeline=[
                    dict(type='LoadImageFromFile'),
                    dict(type='PackDetInputs', meta_keys=('img_id', 'ori_shape')),
                ],
            ),
            'test_evaluator: CocoMetric needs instances of each image, but PackDetInputs in the '
            'pipeline of test_dataloader lacks them in meta_keys; add them, or give the metric its '
            'ann_file',
        ),
        (
            VOC,
            dict(
                val_dataloader__dataset__pipeline=[
                    dict(type='LoadImageFromFile'),
                    dict(type='PackDetInputs'),
                ]
            ),
            "val_evaluator.*: VOCMetric uses the pipeline's ground truth, but",
        ),
        (CONFIG, dict(test_evaluator__proposal_nums=[300]), r'give \(100, 300, 1000\)'),
        (CONFIG, dict(test_evaluator__iou_thrs=[0.5, 75]), 'must be numbers above 0 and at most 1'),
        (CONFIG, dict(test_evaluator__iou_thrs=[]), 'or leave iou_thrs out for COCO'),
        (CONFIG, dict(test_evaluator__iou_thrs='0.5'), "iou_thrs='0.5' is a string; give a number"),
        (
            CONFIG,
            dict(default_hooks__checkpoint__save_best=3),
            'default_hooks.checkpoint.save_best=3',
        ),
        (
            CONFIG,
            dict(default_hooks__checkpoint__save_best='bbox_mAP'),
            "default_hooks.checkpoint.save_best='bbox_mAP' is .* give 'coco/bbox_mAP'",
        ),
        (
            CONFIG,
            dict(custom_hooks=[STOP]),
            "custom_hooks.0.monitor='bbox_mAP' is .* coco/...; give 'coco/bbox_mAP'",
        ),
        (
            VOC,
            dict(default_hooks__checkpoint__save_best='coco/bbox_mAP'),
            "save_best='coco/bbox_mAP' is .* give 'pascal_voc/mAP'",
        ),
    ],
)
def test_options_that_do_not_fit_together_are_an_error_of_one_line(config, keys, words):
    with pytest.raises(InputError, match=words):
        check(changed(str(config), **keys))


@pytest.mark.parametrize(
    ('config', 'keys'),
    [
        (CONFIG, dict(test_evaluator__proposal_nums=(1, 10, 100))),
        (CONFIG, dict(test_evaluator__metric='proposal_fast', test_evaluator__iou_thrs=[0.5])),
        (CONFIG, dict(test_evaluator__iou_thrs=0.6)),
        (
            CONFIG,
            dict(
                train_dataloader__dataset__pipeline__1=dict(
                    type='RandomApply', transforms=[dict(type='LoadAnnotations', with_bbox=True)]
                )
            ),
        ),
        (
            VOC,
            dict(
                test_dataloader__dataset__pipeline=[
                    dict(type='LoadAnnotations', with_bbox=True),
                    dict(type='PackDetInputs', meta_keys=('ori_shape',)),
                ]
            ),
        ),
    ],
)
def test_unusual_but_sound_configs_pass(config, keys):
    check(changed(str(config), **keys))


@pytest.mark.parametrize('best', ['auto', 'coco/bbox_mAP', ['coco/bbox_mAP', 'coco/bbox_mAP_50']])
def test_names_that_the_metric_gives_pass(best):
    check(changed(str(CONFIG), default_hooks__checkpoint__save_best=best))


def test_mosaic_in_its_wrapper_passes():
    cfg = changed(str(CONFIG))
    leaf = cfg.train_dataloader.dataset
    steps = leaf.pipeline
    leaf.pipeline = steps[:2]
    wrapper = dict(type='MultiImageMixDataset', dataset=leaf, pipeline=[MOSAIC, *steps[2:]])
    cfg.train_dataloader.dataset = wrapper
    check(cfg)


@pytest.mark.parametrize(('limit', 'is_warned'), [(100, False), (300, True)])
def test_warning_if_the_detector_returns_more_detections_than_map_counts(limit, is_warned, capsys):
    note_limits(RunConfig.from_cfg(changed(str(CONFIG), model__test_cfg__rcnn__max_per_img=limit)))
    words = 'up to 300 detections of an image; bbox_mAP counts the best 100'
    assert (words in capsys.readouterr().out) == is_warned
