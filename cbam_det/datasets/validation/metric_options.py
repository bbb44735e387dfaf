"""Check that metrics get the inputs that they need, and compute the scores that hooks monitor.

MMEngine and mmdet silently accept each of these faults and fail an epoch later, or compute wrong
scores. Comments link the issues of mmdet.
"""

from __future__ import annotations

import logging

from mmengine.logging import print_log

from ...utils.data_config import DataSet
from ...utils.errors import InputError, first_few
from ...utils.run_config import RunConfig
from ...utils.split_config import Evaluator, Split
from .pipeline import may_load_truth


def check_metrics(split: Split) -> None:
    """Check the evaluators of a validation or test split, without reading files.

    Raises:
        InputError: images would be left out of a score, a metric does not get an input that it
            needs, or COCO's summary fails with the metric's options.
    """
    if split.drop_last:
        # https://github.com/open-mmlab/mmdetection/issues/8237
        raise InputError(
            f'{split.loader}: drop_last=True skips the images of an incomplete last batch, so '
            'their objects count as missed; give drop_last=False'
        )
    for evaluator in split.evaluators:
        if evaluator.is_coco:
            _check_coco_options(evaluator)
        for dataset in () if evaluator.format_only else split.data_sets:
            _check_inputs(split, evaluator, dataset)


def _check_inputs(split: Split, evaluator: Evaluator, dataset: DataSet) -> None:
    """Check that a pipeline gives a COCO or VOC metric its inputs."""
    is_voc = evaluator.name == 'VOCMetric'
    if not dataset.pipeline or not (evaluator.is_coco or is_voc):
        return
    if is_voc and not may_load_truth(dataset):
        raise InputError(
            f"{evaluator.place}: VOCMetric uses the pipeline's ground truth, but the pipeline of "
            f"{split.loader} loads none; add dict(type='LoadAnnotations', with_bbox=True) before "
            'PackDetInputs'
        )
    needed = {'img_id'} if evaluator.is_coco else set()
    if evaluator.is_coco and not evaluator.ann_file:
        needed |= {'instances', 'ori_shape'}
    last = dataset.pipeline[-1]
    packed = last.options.get('meta_keys')
    if packed is not None and (missing := sorted(needed - set(packed))):
        raise InputError(
            f'{evaluator.place}: {evaluator.name} needs {first_few(missing)} of each image, but '
            f'{last.name} in the pipeline of {split.loader} lacks them in meta_keys; add them'
            + (', or give the metric its ann_file' if 'instances' in missing else '')
        )


def _check_coco_options(evaluator: Evaluator) -> None:
    thresholds, numbers = evaluator.iou_thrs, evaluator.proposal_nums
    if thresholds is not None and not (thresholds and all(0 < value <= 1 for value in thresholds)):
        raise InputError(
            f'{evaluator.place}.iou_thrs={list(thresholds)} must be numbers above 0 and at most 1; '
            "give such numbers, or leave iou_thrs out for COCO's ten thresholds"
        )
    summarized = {'bbox', 'segm'} & set(evaluator.metrics or ('bbox',))
    if not summarized or evaluator.use_mp_eval or numbers is None:
        return
    # https://github.com/open-mmlab/mmdetection/issues/7604
    if len(numbers) != 3 or 100 not in numbers:
        raise InputError(
            f'{evaluator.place}.proposal_nums={list(numbers)} must be three numbers, one of them '
            '100, which mAP uses; give (100, 300, 1000)'
        )


def check_monitored(run: RunConfig) -> None:
    """Check that the validation computes the metrics that hooks monitor.

    Raises:
        InputError: no evaluator has the prefix of a monitored metric
            (https://github.com/open-mmlab/mmdetection/issues/6138).
    """
    evaluators = run.splits['val'].evaluators if 'val' in run.splits else ()
    named = [evaluator for evaluator in evaluators if evaluator.name]
    if any(evaluator.name == 'MultiDatasetsEvaluator' for evaluator in named):
        return  # it adds the data sets' prefixes
    prefixes = {evaluator.prefix for evaluator in named}
    if not prefixes or None in prefixes:
        return  # the names of a metric are unknown
    for place, name in run.monitored:
        prefix = name.partition('/')[0] if '/' in name else None
        if prefix not in prefixes:
            known = ' or '.join(sorted(f'{prefix}/...' for prefix in map(str, prefixes)))
            prefix = sorted(map(str, prefixes))[0]
            example = f'{prefix}/{name.rpartition("/")[2]}'
            if prefix.startswith('pascal_voc'):
                example = f'{prefix}/mAP'  # VOCMetric's only mean
            raise InputError(
                f'{place}={name!r} is not a metric of val_evaluator, whose names are {known}; '
                f'give {example!r}'
            )


def note_limits(run: RunConfig) -> None:
    """Warn if a detector returns more detections of an image than COCO's mAP counts.

    https://github.com/open-mmlab/mmdetection/issues/10951
    """
    evaluators = run.splits['test'].evaluators if 'test' in run.splits else ()
    limits = [
        max(evaluator.proposal_nums or (1000,)) for evaluator in evaluators if evaluator.is_coco
    ]
    if limits and run.model.max_per_img > 100 and max(limits) > 100:
        print_log(
            f'the detector returns up to {run.model.max_per_img} detections of an image; bbox_mAP '
            'counts the best 100 of each image, but bbox_mAP_50, bbox_mAP_75 and the APs of '
            f'classes and sizes count up to {max(limits):,}',
            level=logging.WARNING,
        )
