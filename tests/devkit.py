"""PASCAL VOC's evaluation, written independently from the devkit, as a reference for other code.

Development kit of 2007, section 4.4 and VOCevaldet.m: the detections of a class in all images are
sorted by decreasing confidence. Each is assigned to the object in its image with the largest IoU.
It is a true positive if the IoU is at least 0.5 and the object has no detection yet, and a false
positive otherwise; detections of difficult objects are ignored. Boxes include both edge pixels.
"""

from __future__ import annotations

import numpy as np

Box = tuple[float, float, float, float]


def overlap(first: Box, second: Box) -> float:
    """Intersection over union of two boxes that include both edge pixels."""
    sides = [
        min(first[2 + axis], second[2 + axis]) - max(first[axis], second[axis]) + 1
        for axis in (0, 1)
    ]
    if min(sides) <= 0:
        return 0.0
    shared = sides[0] * sides[1]
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (first, second)]
    return shared / (sum(areas) - shared)


def average_precision(
    objects: dict[str, list[tuple[Box, bool]]], detections: list[tuple[str, float, Box]]
) -> dict[str, float]:
    """AP of one class, as '11points' (VOC 2007) and 'area' (from 2010).

    Args:
        objects: by image, the boxes of the class, and whether each is difficult.
        detections: image, confidence and box of each detection.
    """
    detected = {image: [False] * len(boxes) for image, boxes in objects.items()}
    correct, false = [], []
    for image, _, box in sorted(detections, key=lambda detection: -detection[1]):
        overlaps = [overlap(box, target) for target, _ in objects.get(image, [])]
        best = int(np.argmax(overlaps)) if overlaps else -1
        hit = best >= 0 and overlaps[best] >= 0.5
        difficult = hit and objects[image][best][1]
        correct.append(hit and not difficult and not detected[image][best])
        false.append(not hit or (not difficult and detected[image][best]))
        if correct[-1]:
            detected[image][best] = True
    total = sum(not difficult for boxes in objects.values() for _, difficult in boxes)
    recall = np.cumsum(correct) / total
    precision = np.cumsum(correct) / np.maximum(np.cumsum(correct) + np.cumsum(false), 1)
    eleven = [max(precision[recall >= level], default=0.0) for level in np.arange(11) * 0.1]
    area, last = 0.0, 0.0
    for index in np.flatnonzero(np.diff(recall, prepend=0.0)):
        area += (recall[index] - last) * max(precision[index:])
        last = recall[index]
    return {'11points': float(np.mean(eleven)), 'area': float(area)}
