"""Fast COCO evaluation in C++, all COCO numbers, and the names of metrics in tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.evaluation.metrics import CocoMetric
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.registry import METRICS
from pycocotools.cocoeval import COCOeval

from ..models.compat import coco_evaluator, fix_coco_metric, fix_voc_metric
from ..utils.config import kind_of, registered_class, walk
from ..utils.errors import InputError
from ..utils.split_config import COCO_METRICS
from .coco_ids import Annotations, NumberedEval, NumberedEvalMP, NumberedIds
from .coco_thresholds import GivenThresholds, without_absent_thresholds

AP_NAMES = {
    'bbox_mAP': 'AP',
    'bbox_mAP_50': 'AP50',
    'bbox_mAP_75': 'AP75',
    'bbox_mAP_s': 'AP small',
    'bbox_mAP_m': 'AP medium',
    'bbox_mAP_l': 'AP large',
}
COCO_NUMBERS = [
    'mAP',
    'mAP_50',
    'mAP_75',
    'mAP_s',
    'mAP_m',
    'mAP_l',
    'AR@100',
    'AR@300',
    'AR@1000',
    'AR_s@1000',
    'AR_m@1000',
    'AR_l@1000',
]


def metric_name(key: str) -> str | None:
    """The name of a metric of mmdet's evaluators in figures, reports and tables.

    COCO's and VOC's AP50 differ for the same detections: COCO averages over 101 recalls; VOC uses
    11 points or the area and ignores difficult objects.

    Returns:
        For example 'AP50' for 'coco/bbox_mAP_50' and 'VOC AP50' for 'pascal_voc/AP50'; None for
        other metrics.
    """
    prefix, _, name = key.rpartition('/')
    if name == 'AP50':
        return 'VOC AP50, by area' if prefix.endswith('_area') else 'VOC AP50'
    return AP_NAMES.get(name)


def class_of_metric(key: str) -> str | None:
    """The class of mmdet's AP of one class, 'four' of 'coco/four_precision'; None for others."""
    name = key.split('/', 1)[-1]  # a class may have a / too
    return name.removesuffix('_precision') if name.endswith('_precision') else None


def report_every_number(evaluator: dict | list[dict]) -> None:
    """Let the COCO evaluators in a config's `test_evaluator` report all twelve numbers that mmdet
    has and the AP of each class.

    The APs of the classes are left out if masks are evaluated too: mmdet gives the APs of boxes and
    masks the same names.
    """
    for _, node in walk(evaluator):
        metrics = node.get('metric', 'bbox')
        is_coco = kind_of(node) in COCO_METRICS
        metrics = [metrics] if isinstance(metrics, str) else metrics
        if is_coco and 'bbox' in metrics:
            if 'segm' not in metrics:
                node['classwise'] = True
            node.setdefault('metric_items', COCO_NUMBERS)


def fix_metrics() -> None:
    """Let mmdet's CocoMetric and VOCMetric report each AP with its own class for any ids and names.

    CocoMetric can then also evaluate at other IoU thresholds than COCO's. This affects the whole
    process; see `coco_ids`, `coco_thresholds` and `models.compat`.
    """
    fix_coco_metric(NumberedEval, NumberedEvalMP, Annotations)
    fix_voc_metric()
    if not hasattr(CocoMetric.compute_metrics, '__wrapped__'):
        CocoMetric.compute_metrics = without_absent_thresholds(CocoMetric.compute_metrics)


@METRICS.register_module()
class FastCocoMetric(CocoMetric):
    """mmdet's CocoMetric with the matching of faster-coco-eval, which is ten times faster.

    `CheckedRunner` uses it in place of CocoMetric unless the config has `fast_coco_eval=False`; the
    numbers are the same. It has the options of CocoMetric; `use_mp_eval` has no effect. The
    FasterCocoMetric of onedl-mmdetection differs: its mAP uses 1,000 detections per image (the last
    of `proposal_nums`), while pycocotools and CocoMetric use 100.

    Raises:
        InputError: faster-coco-eval is not installed.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        fix_metrics()
        super().__init__(*args, **options)
        self.use_mp_eval = False
        self.evaluator = _evaluator()

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics of `results`, with the names and units of CocoMetric."""
        with coco_evaluator(self.evaluator):
            return super().compute_metrics(results)


def with_fast_metrics(
    evaluator: dict | Sequence[dict | BaseMetric] | Evaluator,
) -> dict | list[dict | BaseMetric] | Evaluator:
    """An evaluator's config in which `FastCocoMetric` replaces mmdet's CocoMetric.

    These stay as they are: metrics that are already built, other classes, and a CocoMetric with
    `use_mp_eval`, which names its evaluation.

    Args:
        evaluator: the `val_evaluator` or `test_evaluator` of a config; it is not changed.
    """
    if isinstance(evaluator, (list, tuple)):
        return [_with_fast_metric(metric) for metric in evaluator]
    if isinstance(evaluator, dict) and 'metrics' in evaluator:
        return {**evaluator, 'metrics': with_fast_metrics(evaluator['metrics'])}
    return _with_fast_metric(evaluator)


def _with_fast_metric(metric: Any) -> Any:
    if not isinstance(metric, dict) or metric.get('use_mp_eval'):
        return metric
    metric_class = registered_class(METRICS, metric.get('type'), metric.get('_scope_'))
    return {**metric, 'type': FastCocoMetric} if metric_class is CocoMetric else metric


def _evaluator() -> type[COCOeval]:
    try:
        from faster_coco_eval import COCOeval_faster
    except ImportError:
        raise InputError(
            'FastCocoMetric needs faster-coco-eval, which is not installed: '
            'pip install faster-coco-eval==1.8.0, or --cfg-options fast_coco_eval=False with '
            'CocoMetric in the config for pycocotools'
        ) from None

    class Counted(COCOeval_faster):
        """Matches in C++; summarises like pycocotools, with 100 detections per image."""

        summarize = COCOeval.summarize

    class Evaluator(NumberedIds, GivenThresholds, Counted):
        """The same evaluation for any ids and thresholds."""

    return Evaluator
