"""Whether the metrics of a config get what they count by, and give what its hooks wait for.

Each fault here is read without a word by MMEngine and mmdet, and ends an epoch later in an
exception or in wrong scores; the threads are named where there is one.
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
    """Check the evaluators of a validation or a test, of which no file is read.

    Raises:
        InputError: images would be left out of a score, the pipeline gives a metric less than it
            needs, or COCO's summary cannot be made with its options.
    """
    if split.drop_last:
        # https://github.com/open-mmlab/mmdetection/issues/8237
        raise InputError(
            f'{split.loader}: drop_last=True leaves the images of the last batch without '
            'detections, and they count as missed; give drop_last=False'
        )
    for evaluator in split.evaluators:
        if evaluator.is_coco:
            _check_coco_options(evaluator)
        for dataset in () if evaluator.format_only else split.data_sets:
            _check_inputs(split, evaluator, dataset)


def _check_inputs(split: Split, evaluator: Evaluator, dataset: DataSet) -> None:
    """Check what a pipeline gives to a metric of COCO or VOC."""
    is_voc = evaluator.name == 'VOCMetric'
    if not dataset.pipeline or not (evaluator.is_coco or is_voc):
        return
    if is_voc and not may_load_truth(dataset):
        raise InputError(
            f'{evaluator.place}: VOCMetric scores against the ground truth of the pipeline, and '
            f"{split.loader}'s loads none; add dict(type='LoadAnnotations', with_bbox=True) before "
            'PackDetInputs'
        )
    needed = {'img_id'} if evaluator.is_coco else set()
    if evaluator.is_coco and not evaluator.ann_file:
        needed |= {'instances', 'ori_shape'}
    last = dataset.pipeline[-1]
    packed = last.options.get('meta_keys')
    if packed is not None and (missing := sorted(needed - set(packed))):
        raise InputError(
            f'{evaluator.place}: {evaluator.name} needs {first_few(missing)} of each image, which '
            f"meta_keys of {last.name} in {split.loader}'s pipeline leave out; add them"
            + (', or give the metric its ann_file' if 'instances' in missing else '')
        )


def _check_coco_options(evaluator: Evaluator) -> None:
    thresholds, numbers = evaluator.iou_thrs, evaluator.proposal_nums
    if thresholds is not None and not (thresholds and all(0 < value <= 1 for value in thresholds)):
        raise InputError(
            f'{evaluator.place}.iou_thrs={list(thresholds)}: an overlap is above 0 and at most 1; '
            "give such numbers, or leave iou_thrs out for COCO's ten"
        )
    summarized = {'bbox', 'segm'} & set(evaluator.metrics or ('bbox',))
    if not summarized or evaluator.use_mp_eval or numbers is None:
        return
    # https://github.com/open-mmlab/mmdetection/issues/7604
    if len(numbers) != 3 or 100 not in numbers:
        raise InputError(
            f'{evaluator.place}.proposal_nums={list(numbers)}: the summary needs three numbers, '
            '100 among them, to which mAP is counted; give (100, 300, 1000)'
        )


def check_monitored(run: RunConfig) -> None:
    """Check that the metrics by which hooks choose or stop are those of the validation.

    Raises:
        InputError: a name has another prefix than every evaluator
            (https://github.com/open-mmlab/mmdetection/issues/6138).
    """
    evaluators = run.splits['val'].evaluators if 'val' in run.splits else ()
    named = [evaluator for evaluator in evaluators if evaluator.name]
    if any(evaluator.name == 'MultiDatasetsEvaluator' for evaluator in named):
        return  # it puts the data set's prefix in front
    prefixes = {evaluator.prefix for evaluator in named}
    if not prefixes or None in prefixes:
        return  # of a metric whose names are not known
    for place, name in run.monitored:
        prefix = name.partition('/')[0] if '/' in name else None
        if prefix not in prefixes:
            known = ' or '.join(sorted(f'{prefix}/...' for prefix in map(str, prefixes)))
            example = f'{sorted(map(str, prefixes))[0]}/{name.rpartition("/")[2]}'
            raise InputError(
                f'{place}={name!r}: the evaluators of val_evaluator name their metrics {known}; '
                f'give {example!r}'
            )


def note_limits(run: RunConfig) -> None:
    """Say where a detector gives more detections of an image than COCO's mAP counts.

    https://github.com/open-mmlab/mmdetection/issues/10951
    """
    evaluators = run.splits['test'].evaluators if 'test' in run.splits else ()
    counted = [max(one.proposal_nums or (1000,)) for one in evaluators if one.is_coco]
    if counted and run.model.max_per_img > 100 and max(counted) > 100:
        print_log(
            f'the detector gives up to {run.model.max_per_img} detections of an image; bbox_mAP '
            'counts the best 100 of each, bbox_mAP_50, bbox_mAP_75 and the APs of classes and '
            f'sizes count up to {max(counted):,}',
            level=logging.WARNING,
        )
