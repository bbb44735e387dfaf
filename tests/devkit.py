"""PASCAL VOC's evaluation, written from the devkit's description alone, to compare others with.

Development kit of 2007, section 4.4 and VOCevaldet.m: detections of a class over all images by
decreasing confidence; each goes to the object of its image that it overlaps most; it is right
where that overlap is 0.5 or more and the object was not found before, wrong where it was, and
neither where the object is difficult. Boxes are of whole pixels, both edges inside.
"""

from __future__ import annotations

import numpy as np

Box = tuple[float, float, float, float]


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes whose last row and column belong to them."""
    sides = [
        min(one[2 + axis], other[2 + axis]) - max(one[axis], other[axis]) + 1 for axis in (0, 1)
    ]
    if min(sides) <= 0:
        return 0.0
    shared = sides[0] * sides[1]
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (one, other)]
    return shared / (sum(areas) - shared)


def average_precision(
    objects: dict[str, list[tuple[Box, bool]]], detections: list[tuple[str, float, Box]]
) -> dict[str, float]:
    """Of one class: '11points' (2007) and 'area' (from 2010 on).

    Args:
        objects: by image its boxes of the class, and whether each is difficult.
        detections: image, confidence and box.
    """
    found = {image: [False] * len(boxes) for image, boxes in objects.items()}
    right, wrong = [], []
    for image, _, box in sorted(detections, key=lambda one: -one[1]):
        overlaps = [overlap(box, theirs) for theirs, _ in objects.get(image, [])]
        best = int(np.argmax(overlaps)) if overlaps else -1
        hit = best >= 0 and overlaps[best] >= 0.5
        difficult = hit and objects[image][best][1]
        right.append(hit and not difficult and not found[image][best])
        wrong.append(not hit or (not difficult and found[image][best]))
        if right[-1]:
            found[image][best] = True
    total = sum(not difficult for boxes in objects.values() for _, difficult in boxes)
    recall = np.cumsum(right) / total
    precision = np.cumsum(right) / np.maximum(np.cumsum(right) + np.cumsum(wrong), 1)
    eleven = [max(precision[recall >= level], default=0.0) for level in np.arange(11) * 0.1]
    area, last = 0.0, 0.0
    for place in np.flatnonzero(np.diff(recall, prepend=0.0)):
        area += (recall[place] - last) * max(precision[place:])
        last = recall[place]
    return {'11points': float(np.mean(eleven)), 'area': float(area)}
