"""COCO's evaluation at other IoU thresholds than COCO's ten: `iou_thrs` of mmdet's CocoMetric.

mmdet's CocoMetric has three faults with such thresholds:

- It passes a list to pycocotools, whose search for 0.5 and 0.75 works only with an array. With a
  list it raises a ValueError, or reports -1 for mAP_50 and mAP_75 with an older NumPy.
- It reports -1 for mAP_50 and mAP_75 if these thresholds are not evaluated, instead of no number.
- It reads the APs of each class at the first and the sixth threshold, which are 0.5 and 0.75 only
  in COCO's list. With fewer thresholds it raises an IndexError.

https://github.com/open-mmlab/mmdetection/issues/7604 is about the same numbers. With these fixes
mAP is the mean over the given thresholds.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

COCO_PLACES = {0.5: 0, 0.75: 5}  # the positions in COCO's list of mAP_50 and mAP_75


class GivenThresholds:
    """A mixin for a COCOeval class whose `params.iouThrs` is a number, a list or an array."""

    params: Any
    eval: dict[str, Any]

    def evaluate(self) -> None:
        """Match the detections at each threshold."""
        self.params.iouThrs = np.atleast_1d(np.asarray(self.params.iouThrs, float))
        super().evaluate()  # type: ignore[misc]

    def summarize(self) -> None:
        """Summarise, and move the precisions to where CocoMetric reads the APs of each class."""
        super().summarize()  # type: ignore[misc]
        self.eval['precision'] = _at_coco_places(self.eval['precision'], self.params.iouThrs)


def _at_coco_places(precision: np.ndarray, thresholds: Iterable[float]) -> np.ndarray:
    """Reorder precisions so that IoU 0.5 is first and 0.75 is sixth, as in COCO's list.

    Args:
        precision: of shape (thresholds, recalls, classes, sizes, limits).
        thresholds: the IoU thresholds of the first axis.

    Returns:
        The same with a first axis of 6 or more; -1, which means no number, where there is no
        threshold.
    """
    free = (place for place in itertools.count() if place not in COCO_PLACES.values())
    places = [COCO_PLACES[value] if value in COCO_PLACES else next(free) for value in thresholds]
    size = max(*places, *COCO_PLACES.values()) + 1
    arranged = np.full((size, *precision.shape[1:]), -1.0)
    arranged[places] = precision
    return arranged


def without_absent_thresholds(compute: Callable) -> Callable:
    """Wrap CocoMetric's `compute_metrics` to leave mAP_50 and mAP_75 out if not evaluated."""

    @functools.wraps(compute)
    def compute_given(self: Any, results: list) -> dict[str, float]:
        numbers = compute(self, results)
        given = np.atleast_1d(self.iou_thrs)
        absent = tuple(f'mAP_{100 * value:.0f}' for value in COCO_PLACES if value not in given)
        return {name: value for name, value in numbers.items() if not name.endswith(absent)}

    return compute_given
