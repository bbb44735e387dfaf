"""Random annotations and detections, to compare evaluators."""

from __future__ import annotations

import numpy as np


def random_detections(
    images: int, classes: int, detections: int, seed: int = 0
) -> tuple[dict, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Make random annotations and detections without images, to compare evaluators.

    Objects have sides of 8 to 400 pixels. There are 7 per image on average, none in 10% of the
    images; 2% of them are crowds. Half of the detections are near objects, 80% of these with the
    right class. Scores are rounded to two decimals, so that many are equal.

    Returns:
        The content of a COCO annotation file; and for each image boxes (detections, 4) as x1, y1,
        x2, y2 in pixels, scores, and class numbers from 0.
    """
    random = np.random.default_rng(seed)

    def boxes(count: int) -> np.ndarray:
        sides = np.exp(random.uniform(np.log(8), np.log(400), (count, 2)))
        corners = random.random((count, 2)) * (640 - sides)
        return np.hstack([corners, corners + sides])

    annotations, results = [], []
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
        predicted_boxes, predicted_labels = (
            boxes(detections),
            random.integers(classes, size=detections),
        )
        scores = random.beta(1, 4, detections)
        sides = np.tile(objects[near, 2:] - objects[near, :2], 2)
        predicted_boxes[: len(near)] = objects[near] + random.normal(0, 0.1, sides.shape) * sides
        predicted_boxes[:, 2:] = np.maximum(predicted_boxes[:, 2:], predicted_boxes[:, :2] + 1)
        scores[: len(near)] = random.beta(4, 2, len(near))
        correct = np.flatnonzero(random.random(len(near)) < 0.8)
        predicted_labels[correct] = labels[near[correct]]
        results.append((predicted_boxes, scores.round(2), predicted_labels))
    content = dict(
        info={},
        images=[
            dict(id=image + 1, file_name=f'{image + 1}.jpg', width=640, height=640)
            for image in range(images)
        ],
        categories=[dict(id=label + 1, name=f'class {label}') for label in range(classes)],
        annotations=annotations,
    )
    return content, results
