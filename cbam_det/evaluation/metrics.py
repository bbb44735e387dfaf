"""COCO's evaluation: every number of it, and in C++ in a fraction of pycocotools' time."""

from __future__ import annotations

from typing import Any

from mmdet.evaluation.metrics import CocoMetric
from mmengine.registry import METRICS
from pycocotools.cocoeval import COCOeval

from ..models.compat import coco_evaluator, fix_coco_metric, fix_voc_metric
from ..utils.config import kind_of, walk
from ..utils.errors import InputError
from ..utils.split_config import COCO_METRICS
from .coco_ids import Annotations, NumberedEval, NumberedEvalMP, NumberedIds
from .coco_thresholds import GivenThresholds, without_absent_thresholds

AP_NAMES = {
    **{'bbox_mAP': 'AP', 'bbox_mAP_50': 'AP50', 'bbox_mAP_75': 'AP75'},
    **{'bbox_mAP_s': 'AP small', 'bbox_mAP_m': 'AP medium', 'bbox_mAP_l': 'AP large'},
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
    """What a metric of mmdet's evaluators is called in figures, reports and tables.

    COCO's AP50 and VOC's are different numbers of the same detections: the one is the mean over 101
    recalls, the other by 11 points or by area, without difficult objects.

    Returns:
        'AP50' for 'coco/bbox_mAP_50', 'VOC AP50' for 'pascal_voc/AP50', say; None for others.
    """
    prefix, _, name = key.rpartition('/')
    if name == 'AP50':
        return f'VOC AP50{", by area" * prefix.endswith("_area")}'
    return AP_NAMES.get(name)


def report_every_number(evaluator: dict | list[dict]) -> None:
    """Let the COCO evaluators of a config's `test_evaluator` report mmdet's twelve numbers and the
    AP of each class.
    """
    for _, node in walk(evaluator):
        metrics = node.get('metric', 'bbox')
        is_coco = kind_of(node) in COCO_METRICS
        if is_coco and 'bbox' in ([metrics] if isinstance(metrics, str) else metrics):
            node['classwise'] = True
            node.setdefault('metric_items', COCO_NUMBERS)


def fix_metrics() -> None:
    """Let mmdet's CocoMetric and VOCMetric give each number to its own class, whatever the order of
    ids and the names of a data set, and CocoMetric evaluate at other IoUs than COCO's, for the
    whole process (see `coco_ids`, `coco_thresholds` and `models.compat`).
    """
    fix_coco_metric(NumberedEval, NumberedEvalMP, Annotations)
    fix_voc_metric()
    if not hasattr(CocoMetric.compute_metrics, '__wrapped__'):
        CocoMetric.compute_metrics = without_absent_thresholds(CocoMetric.compute_metrics)


@METRICS.register_module()
class FastCocoMetric(CocoMetric):
    """mmdet's CocoMetric with the matching and counting of faster-coco-eval.

    The options are CocoMetric's; `use_mp_eval` changes nothing. The FasterCocoMetric of
    onedl-mmdetection is another: its mAP counts 1,000 detections of an image (the last of
    `proposal_nums`), where pycocotools and CocoMetric count 100.

    Raises:
        InputError: faster-coco-eval is not installed.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        fix_metrics()
        super().__init__(*args, **options)
        self.use_mp_eval = False
        self.evaluator = _evaluator()

    def compute_metrics(self, results: list) -> dict[str, float]:
        """The metrics of `results`, by the names and in the units of CocoMetric."""
        with coco_evaluator(self.evaluator):
            return super().compute_metrics(results)


def _evaluator() -> type[COCOeval]:
    try:
        from faster_coco_eval import COCOeval_faster
    except ImportError:
        raise InputError(
            'FastCocoMetric needs faster-coco-eval, which is not installed: '
            'pip install faster-coco-eval==1.8.0, or take CocoMetric'
        ) from None

    class Counted(COCOeval_faster):
        """Counts in C++; sums up as pycocotools does, at 100 detections of an image."""

        summarize = COCOeval.summarize

    class Evaluator(NumberedIds, GivenThresholds, Counted):
        """The same for any ids and thresholds."""

    return Evaluator
