"""COCO's evaluation at other IoU thresholds than COCO's ten, by the `iou_thrs` of a CocoMetric.

mmdet's CocoMetric takes them and then
- hands a list to pycocotools, which looks for 0.5 and 0.75 by a comparison that only an array
  answers: a ValueError, or -1 for mAP_50 and mAP_75 with an older NumPy;
- gives -1 for them too where they are not among the thresholds, instead of no number;
- reads the APs of each class at the first and the sixth threshold, as if they were COCO's, and ends
  in an IndexError where there are fewer.

https://github.com/open-mmlab/mmdetection/issues/7604 is about the same summaries. With these fixes
mAP is the mean over the thresholds that are given.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

COCO_PLACES = {0.5: 0, 0.75: 5}  # of the thresholds that have numbers of their own


class GivenThresholds:
    """Evaluates at `params.iouThrs`, a number, a list or an array. To be inherited beside a
    COCOeval.
    """

    params: Any
    eval: dict[str, Any]

    def evaluate(self) -> None:
        """Match the detections at each threshold."""
        self.params.iouThrs = np.atleast_1d(np.asarray(self.params.iouThrs, float))
        super().evaluate()  # type: ignore[misc]

    def summarize(self) -> None:
        """Sum up, and put the precisions where CocoMetric's APs of classes read them."""
        super().summarize()  # type: ignore[misc]
        self.eval['precision'] = _at_coco_places(self.eval['precision'], self.params.iouThrs)


def _at_coco_places(precision: np.ndarray, thresholds: Iterable[float]) -> np.ndarray:
    """Precisions with that of IoU 0.5 first and that of 0.75 sixth, as COCO's ten have them.

    Args:
        precision: of shape (thresholds, recalls, classes, sizes, limits).

    Returns:
        The same with as many first places or more; those without a threshold have -1, which stands
        for no number.
    """
    free = (place for place in itertools.count() if place not in COCO_PLACES.values())
    places = [COCO_PLACES[value] if value in COCO_PLACES else next(free) for value in thresholds]
    size = max(*places, *COCO_PLACES.values()) + 1
    arranged = np.full((size, *precision.shape[1:]), -1.0)
    arranged[places] = precision
    return arranged


def without_absent_thresholds(compute: Callable) -> Callable:
    """CocoMetric's `compute_metrics` without mAP_50 and mAP_75 where they are not evaluated."""

    @functools.wraps(compute)
    def compute_given(self: Any, results: list) -> dict[str, float]:
        numbers = compute(self, results)
        given = np.atleast_1d(self.iou_thrs)
        absent = tuple(f'mAP_{100 * value:.0f}' for value in COCO_PLACES if value not in given)
        return {name: value for name, value in numbers.items() if not name.endswith(absent)}

    return compute_given
