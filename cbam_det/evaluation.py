"""COCO's evaluation in C++: pycocotools' numbers in a fraction of its time."""

from __future__ import annotations

from unittest import mock

import numpy as np
from mmdet.evaluation.metrics import CocoMetric, coco_metric
from mmengine.registry import METRICS
from pycocotools.cocoeval import COCOeval

from .errors import InputError


@METRICS.register_module()
class FastCocoMetric(CocoMetric):
    """mmdet's CocoMetric with the matching and counting of faster-coco-eval.

    The options are CocoMetric's; `use_mp_eval` changes nothing. The FasterCocoMetric of
    onedl-mmdetection is another: its mAP counts 1,000 detections of an image (the last of
    `proposal_nums`), where pycocotools and CocoMetric count 100.

    Raises:
        InputError: faster-coco-eval is not installed.
    """

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        self.use_mp_eval = False
        self.evaluator = _evaluator()

    def compute_metrics(self, results: list) -> dict[str, float]:
        """The metrics of `results`, by the names and in the units of CocoMetric."""
        # CocoMetric takes the evaluator from its module, and gives no other way in.
        with mock.patch.object(coco_metric, 'COCOeval', self.evaluator):
            return super().compute_metrics(results)


def _evaluator() -> type[COCOeval]:
    try:
        from faster_coco_eval import COCOeval_faster
    except ImportError:
        raise InputError(
            'FastCocoMetric needs faster-coco-eval, which is not installed: '
            'pip install faster-coco-eval==1.8.0, or take CocoMetric'
        ) from None

    class Evaluator(COCOeval_faster):
        """Counts in C++; sums up as pycocotools does, at 100 detections of an image."""

        summarize = COCOeval.summarize

    return Evaluator


def made_up(
    images: int, classes: int, detections: int, seed: int = 0
) -> tuple[dict, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Annotations and detections without images, to compare evaluators on.

    Objects are of 8 to 400 pixels, 7 an image in the mean, none in one of ten, 2% of them crowds.
    Half of the detections lie near objects, with the right class four times in five; scores have
    two decimals, so that many are equal.

    Returns:
        What a COCO annotation file holds; for each image boxes of shape (detections, 4) in pixels
        as x1, y1, x2, y2, scores and classes from 0.
    """
    random = np.random.default_rng(seed)

    def boxes(count: int) -> np.ndarray:
        sides = np.exp(random.uniform(np.log(8), np.log(400), (count, 2)))
        corners = random.random((count, 2)) * (640 - sides)
        return np.hstack([corners, corners + sides])

    annotations, found = [], []
    for image in range(images):
        count = 0 if random.random() < 0.1 else random.poisson(7.8)
        objects, labels = boxes(count), random.integers(classes, size=count)
        for (x1, y1, x2, y2), label in zip(objects.tolist(), labels.tolist(), strict=True):
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image + 1,
                    category_id=label + 1,
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    area=0.7 * (x2 - x1) * (y2 - y1),
                    iscrowd=int(random.random() < 0.02),
                )
            )
        near = random.integers(max(count, 1), size=detections // 2 if count else 0)
        given, guess = boxes(detections), random.integers(classes, size=detections)
        scores = random.beta(1, 4, detections)
        sides = np.tile(objects[near, 2:] - objects[near, :2], 2)
        given[: len(near)] = objects[near] + random.normal(0, 0.1, sides.shape) * sides
        given[:, 2:] = np.maximum(given[:, 2:], given[:, :2] + 1)
        scores[: len(near)] = random.beta(4, 2, len(near))
        right = np.flatnonzero(random.random(len(near)) < 0.8)
        guess[right] = labels[near[right]]
        found.append((given, scores.round(2), guess))
    content = dict(
        info={},
        images=[
            dict(id=image + 1, file_name=f'{image + 1}.jpg', width=640, height=640)
            for image in range(images)
        ],
        categories=[dict(id=label + 1, name=f'class {label}') for label in range(classes)],
        annotations=annotations,
    )
    return content, found
