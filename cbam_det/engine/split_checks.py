"""Loaders, pipelines, metrics and hooks that do not work together, found before the first step.

Each of them is read without a word by MMEngine and mmdet, and ends an epoch later in an exception
or in wrong scores; the threads are named where there is one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import METRICS, TRANSFORMS

from ..datasets.validation.dataset import layout_of
from ..utils.config import kind_of, registered_class, walk
from ..utils.errors import InputError, first_few
from ..utils.run_config import COCO_METRICS, DataSet, leaf_datasets
from ..utils.value_types import typed

# Transforms that mix several images, which only a MultiImageMixDataset hands to them.
MIXING = ('Mosaic', 'MixUp', 'YOLOXMixUp', 'CopyPaste')


def check_splits(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check that loaders, pipelines and metrics of `splits` ('train', 'val', 'test') fit together.

    Raises:
        InputError: images would be left out of a score, a transform or a metric would not get what
            it needs, or a hook waits for a metric that no evaluator gives.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if not isinstance(loader, dict) or not isinstance(loader.get('dataset'), dict):
            continue
        _check_mixing(f'{split}_dataloader', loader['dataset'])
        if split == 'train':
            _check_truth_is_loaded(loader['dataset'])
        else:
            _check_nothing_left_out(split, loader)
            _check_metrics(cfg, split, loader['dataset'])
    if 'val' in splits:
        _check_monitored(cfg)


def _check_mixing(place: str, dataset: dict) -> None:
    """https://github.com/open-mmlab/mmdetection/issues/6155"""
    for _, leaf in leaf_datasets(dataset, 'dataset'):
        for step in _steps(leaf):
            if kind_of(step) in MIXING and _is_openmmlab_s(step, 'mmdet.'):
                raise InputError(
                    f'{place}: {kind_of(step)} mixes several images, which the pipeline of '
                    f'{kind_of(leaf)} cannot give it; wrap the data set: '
                    "dict(type='MultiImageMixDataset', dataset=..., pipeline=[...]), with "
                    f'{kind_of(step)} and what follows in the pipeline of the wrapper'
                )


def _check_truth_is_loaded(dataset: dict) -> None:
    for _, leaf in leaf_datasets(dataset, 'dataset'):
        steps = _steps(leaf)
        kind = DataSet.from_cfg(leaf).kind
        if kind is None or layout_of(kind) is None:  # a classifier's has labels alone
            continue
        if steps and not _may_load_truth(steps):
            raise InputError(
                f'train_dataloader: the pipeline of {kind_of(leaf)} loads no annotations, so there '
                "is nothing to learn; add dict(type='LoadAnnotations', with_bbox=True) after "
                'LoadImageFromFile'
            )


def _check_nothing_left_out(split: str, loader: dict) -> None:
    """https://github.com/open-mmlab/mmdetection/issues/8237"""
    if loader.get('drop_last'):
        raise InputError(
            f'{split}_dataloader.drop_last=True leaves the images of the last batch without '
            'detections, and they count as missed; give drop_last=False'
        )
    for _, leaf in leaf_datasets(loader['dataset'], 'dataset'):
        filters = leaf.get('filter_cfg') or {}
        if not leaf.get('test_mode') and (
            filters.get('filter_empty_gt') or filters.get('min_size')
        ):
            raise InputError(
                f'{split}_dataloader: filter_cfg={dict(filters)} of {kind_of(leaf)} leaves images '
                'out of the evaluation; give test_mode=True, with which nothing is filtered'
            )


def _check_metrics(cfg: Config, split: str, dataset: dict) -> None:
    key = f'{split}_evaluator'
    for place, node in walk(cfg.get(key) or {}, key):
        kind = kind_of(node)
        if kind in COCO_METRICS:
            _check_limits(place, node)
        if kind not in (*COCO_METRICS, 'VOCMetric') or node.get('format_only'):
            continue
        for _, leaf in leaf_datasets(dataset, 'dataset'):
            steps = _steps(leaf)
            if not steps:
                continue
            if kind == 'VOCMetric' and not _may_load_truth(steps):
                raise InputError(
                    f'{place}: VOCMetric scores against the ground truth of the pipeline, and '
                    f"{split}_dataloader's loads none; add dict(type='LoadAnnotations', "
                    'with_bbox=True) before PackDetInputs'
                )
            needed = {'img_id'} if kind in COCO_METRICS else set()
            if kind in COCO_METRICS and not node.get('ann_file'):
                needed |= {'instances', 'ori_shape'}
            packed = steps[-1].get('meta_keys')
            if packed is not None and (missing := sorted(needed - set(packed))):
                raise InputError(
                    f'{place}: {kind} needs {first_few(missing)} of each image, which meta_keys of '
                    f"{kind_of(steps[-1])} in {split}_dataloader's pipeline leave out; add them"
                    + (', or give the metric its ann_file' if 'instances' in missing else '')
                )


def _check_limits(place: str, node: dict) -> None:
    """https://github.com/open-mmlab/mmdetection/issues/7604"""
    metrics = node.get('metric') or 'bbox'
    summarized = {'bbox', 'segm'} & {metrics, *(metrics if isinstance(metrics, list) else ())}
    if not summarized or node.get('use_mp_eval'):
        return
    numbers = typed(node, 'proposal_nums', list[int] | None, place)
    if numbers is not None and (len(numbers) != 3 or 100 not in numbers):
        raise InputError(
            f'{place}.proposal_nums={numbers!r}: the summary needs three numbers, 100 among them, '
            'to which mAP is counted; give (100, 300, 1000)'
        )
    if node.get('iou_thrs') is not None:
        raise InputError(
            f'{place}.iou_thrs={node["iou_thrs"]!r}: the summary of mAP, mAP_50 and mAP_75 needs '
            "COCO's ten thresholds; leave iou_thrs out"
        )


def _may_load_truth(steps: list[dict]) -> bool:
    """Whether a pipeline loads annotations, inside other transforms too, or has a transform of
    another library, which may.
    """
    inner = [node for step in steps for _, node in walk(step) if node.get('type')]
    return any(
        kind_of(step) == 'TestTimeAug'
        or ('Annotations' in kind_of(step) and not kind_of(step).startswith('Filter'))
        or not _is_openmmlab_s(step, ('mmdet.', 'mmcv.', 'mmengine.'))
        for step in inner
    )


def _is_openmmlab_s(step: dict, packages: str | tuple[str, ...]) -> bool:
    kind = registered_class(TRANSFORMS, step['type'])
    return kind is not None and kind.__module__.startswith(packages)


def _check_monitored(cfg: Config) -> None:
    """https://github.com/open-mmlab/mmdetection/issues/6138"""
    prefixes = set(_prefixes(cfg.get('val_evaluator') or {}))
    if not prefixes or None in prefixes:
        return  # of a metric whose names are not known
    for place, name in _monitored(cfg):
        prefix = name.partition('/')[0] if '/' in name else None
        if prefix not in prefixes:
            known = ' or '.join(sorted(f'{prefix}/...' for prefix in map(str, prefixes)))
            example = f'{sorted(map(str, prefixes))[0]}/{name.rpartition("/")[2]}'
            raise InputError(
                f'{place}={name!r}: the evaluators of val_evaluator name their metrics {known}; '
                f'give {example!r}'
            )


def _prefixes(evaluator: dict | list) -> Iterator[str | None]:
    for _, node in walk(evaluator):
        if kind_of(node) == 'MultiDatasetsEvaluator':
            yield None  # it puts the data set's prefix in front
            continue
        if not node.get('type'):
            continue
        metric = registered_class(METRICS, kind_of(node))
        yield node.get('prefix') or getattr(metric, 'default_prefix', None)


def _monitored(cfg: Config) -> Iterator[tuple[str, str]]:
    hooks = {f'default_hooks.{key}': hook for key, hook in (cfg.get('default_hooks') or {}).items()}
    hooks |= {f'custom_hooks.{k}': hook for k, hook in enumerate(cfg.get('custom_hooks') or ())}
    for place, hook in hooks.items():
        if not isinstance(hook, dict):
            continue
        best = typed(hook, 'save_best', str | list | None, place) or ()
        for name in [best] if isinstance(best, str) else best:
            if name != 'auto':
                yield f'{place}.save_best', name
        if kind_of(hook) == 'EarlyStoppingHook' and isinstance(hook.get('monitor'), str):
            yield f'{place}.monitor', hook['monitor']


def note_limits(cfg: Config) -> None:
    """Say where a detector gives more detections of an image than COCO's mAP counts.

    https://github.com/open-mmlab/mmdetection/issues/10951
    """
    nodes = dict(walk(cfg.get('model') or {}))
    test_cfg = nodes.get('test_cfg.rcnn') or nodes.get('test_cfg') or {}
    limit = test_cfg.get('max_per_img', 0)
    evaluators = [node for _, node in walk(cfg.get('test_evaluator') or {})]
    counted = [
        max(node.get('proposal_nums') or [1000])
        for node in evaluators
        if kind_of(node) in COCO_METRICS
    ]
    if counted and isinstance(limit, int) and limit > 100 and max(counted) > 100:
        print_log(
            f'the detector gives up to {limit} detections of an image; bbox_mAP counts the best '
            '100 of each, bbox_mAP_50, bbox_mAP_75 and the APs of classes and sizes count up to '
            f'{max(counted):,}',
            level=logging.WARNING,
        )


def _steps(dataset: dict) -> list[dict]:
    return [step for step in dataset.get('pipeline') or () if isinstance(step, dict)]
