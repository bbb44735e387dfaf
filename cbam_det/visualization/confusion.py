"""The confusion matrix of a detector: which classes it takes for which, misses or invents.

It counts as mmdet's tools/analysis_tools/confusion_matrix.py does: each pair of a detection and an
object with an IoU of at least 0.5 is counted, of whatever classes they are; a detection without
such an object is counted as background, an object without such a detection of its own class as
missed. Deviation: classes beyond the `CLASSES` with the most objects are left out of the figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from mmdet.evaluation import bbox_overlaps

from .detections import Detections
from .figures import STYLE

IOU = 0.5  # of a detection and its object, mmdet's --tp-iou-thr
CLASSES = 30  # on a page, whose cells have to be readable


def confusion_matrix(images: Iterable[tuple[dict, Detections]], classes: int) -> np.ndarray:
    """Count objects by their class and the class they are detected as.

    Args:
        images: the info of each image from mmdet's `get_data_info`, and the detections in it.
        classes: their number K.

    Returns:
        (K + 1, K + 1) counts. The rows are the classes of the objects, the last one the background;
        the columns are the classes of the detections, the last one missed objects.
    """
    matrix = np.zeros((classes + 1, classes + 1), int)
    for info, detections in images:
        boxes = np.array([item['bbox'] for item in info['instances']], np.float32).reshape(-1, 4)
        labels = np.array([item['bbox_label'] for item in info['instances']], int)
        matched = bbox_overlaps(detections.boxes.astype(np.float32), boxes) >= IOU
        matched = matched.reshape(len(detections.boxes), len(boxes))
        rows, objects = np.nonzero(matched)
        np.add.at(matrix, (labels[objects], detections.labels[rows]), 1)
        np.add.at(matrix, (-1, detections.labels[~matched.any(1)]), 1)
        correct = (matched & (detections.labels[:, None] == labels)).any(0)
        np.add.at(matrix, (labels[~correct], -1), 1)
    return matrix


def confusion_page(matrix: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """Draw a `confusion_matrix` in percent of its rows, with the numbers in the cells."""
    totals = matrix.sum(1)
    order = np.argsort(-totals[:-1], kind='stable')[:CLASSES]
    shown = [*sorted(order), len(classes)]
    shares = 100 * matrix / np.maximum(totals, 1)[:, None]
    shares = shares[np.ix_(shown, shown)]
    names = [classes[number] for number in shown[:-1]]
    if len(classes) > CLASSES:
        title += f'\nthe {CLASSES} of {len(classes)} classes with the most objects'
    side = 2.4 + 0.42 * len(shown)
    with plt.rc_context({**STYLE, 'axes.grid': False}):
        figure, axis = plt.subplots(figsize=(side + 1.6, side))
        image = axis.imshow(shares, cmap='Blues', vmin=0, vmax=100)
        places = range(len(shown))
        axis.set_xticks(places, [*names, 'missed'], rotation=45, ha='right', rotation_mode='anchor')
        axis.set_yticks(places, [*names, 'background'])
        axis.set(xlabel='detected as', ylabel='object')
        axis.set_title(title, fontsize=10)
        for row, column in zip(*np.nonzero(shares >= 0.5), strict=True):
            share = shares[row, column]
            colour = 'white' if share > 60 else 'black'
            axis.text(
                column, row, f'{share:.0f}', ha='center', va='center', fontsize=8, color=colour
            )
        bar = figure.colorbar(image, ax=axis, label='percent of the row', shrink=0.8)
        bar.outline.set_visible(False)
    return figure
