"""COCO's evaluation for files with any ids: in any order, from 0, numbers or texts.

pycocotools has three faults with such ids, and faster-coco-eval matches no text ids at all:

- It sorts the category ids, while mmdet's CocoMetric reads the APs in the order of the file. If the
  ids do not ascend, a class gets the AP of another
  (https://github.com/facebookresearch/Detectron/issues/1010 is the same fault).
- It marks the match of a detection by the annotation's id, so it counts annotation 0 as missed
  (https://github.com/cocodataset/cocoapi/issues/664).
- It reads text ids letter by letter.

The evaluation here numbers all ids from 1. The predictions that CocoMetric writes keep the ids of
the file.

If there is nothing to score, no object of a size say, pycocotools' numbers are -1, which looks like
a score and spoils means. Here they are NaN, as mmdet's of a class without objects.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCO, COCOevalMP
from pycocotools.cocoeval import COCOeval

from .coco_thresholds import GivenThresholds


class NumberedIds:
    """A mixin for a COCOeval class that numbers images, classes and annotations from 1.

    It evaluates copies. Classes are numbered in the order of `params.catIds`, which is also the
    order of the third axis of the precision; images in the order of their ids.

    Args:
        truth, detections: the annotations and the detections; they are not changed.
        iou_type: 'bbox' or 'segm'.
    """

    params: Any

    def __init__(self, truth: COCO, detections: COCO, iou_type: str = 'segm') -> None:
        # With the data sets, the constructor would sort their ids.
        super().__init__(None, None, iou_type)  # type: ignore[call-arg]
        self.cocoGt, self.cocoDt = truth, detections
        self.params.imgIds = truth.getImgIds()
        self.params.catIds = truth.getCatIds()

    def evaluate(self) -> None:
        """Match the detections of `params.imgIds` and `params.catIds`, and number these from 1."""
        params, truth, detections = self.params, self.cocoGt, self.cocoDt
        categories = _number_ids([*params.catIds, *truth.cats])
        ids = {*params.imgIds, *truth.imgs}
        images = _number_ids(sorted(ids, key=lambda value: (isinstance(value, str), value)))
        self.cocoGt = _renumbered(truth, images, categories)
        self.cocoDt = _renumbered(detections, images, categories)
        params.imgIds = [images[value] for value in params.imgIds]
        params.catIds = [categories[value] for value in params.catIds]
        super().evaluate()  # type: ignore[misc]

    def summarize(self) -> None:
        """The twelve numbers, printed and kept in `stats`."""
        super().summarize()  # type: ignore[misc]
        mark_unscored(self)


class NumberedEval(NumberedIds, GivenThresholds, COCOeval):
    """pycocotools' evaluation with numbered ids, for mmdet's CocoMetric."""


class NumberedEvalMP(NumberedIds, GivenThresholds, COCOevalMP):
    """mmdet's evaluation in several processes (`use_mp_eval`) with numbered ids."""


class Annotations(COCO):
    """mmdet's COCO, but a text is one id, not a list of letters."""

    def loadCats(self, ids: Sequence[int | str] | int | str = ()) -> list[dict]:
        """The categories with these ids, or with one id."""
        return super().loadCats([ids] if isinstance(ids, str) else ids)


def mark_unscored(evaluation: Any) -> None:
    """Put NaN in the place of -1 in the `stats` of a COCOeval."""
    stats = np.asarray(evaluation.stats, float)
    evaluation.stats = np.where(stats == -1, np.nan, stats)


def _number_ids(ids: Iterable) -> dict[object, int]:
    return {value: number for number, value in enumerate(dict.fromkeys(ids), 1)}


def _renumbered(coco: COCO, images: dict[object, int], categories: dict[object, int]) -> COCO:
    """A copy with these numbers, without annotations of other images or categories."""
    content = coco.dataset
    annotations = [
        entry
        for entry in content.get('annotations', [])
        if entry['image_id'] in images and entry['category_id'] in categories
    ]
    copy = COCO()
    copy.dataset = dict(
        images=[{**entry, 'id': images[entry['id']]} for entry in content['images']],
        categories=[{**entry, 'id': categories[entry['id']]} for entry in content['categories']],
        annotations=[
            {
                **entry,
                'id': number,
                'image_id': images[entry['image_id']],
                'category_id': categories[entry['category_id']],
            }
            for number, entry in enumerate(annotations, 1)
        ],
    )
    with contextlib.redirect_stdout(io.StringIO()):
        copy.createIndex()
    return copy
