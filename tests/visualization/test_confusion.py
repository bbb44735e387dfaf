"""The confusion matrix counts as mmdet's own tool does."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import mmdet
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from cbam_det.visualization import confusion
from cbam_det.visualization.confusion import confusion_matrix, confusion_page
from cbam_det.visualization.detections import Detections

TOOL = Path(mmdet.__file__).parent / '.mim/tools/analysis_tools/confusion_matrix.py'
CLASSES = 4


def image(seed: int, objects: int, found: int) -> tuple[dict, InstanceData]:
    """Random boxes that overlap a lot."""
    random = np.random.default_rng(seed)

    def boxes(count: int) -> np.ndarray:
        corners = random.integers(0, 12, (count, 2))
        return np.hstack([corners, corners + random.integers(20, 40, (count, 2))]).astype(float)

    instances = [
        dict(bbox=list(box), bbox_label=int(random.integers(CLASSES)), ignore_flag=0)
        for box in boxes(objects)
    ]
    detected = InstanceData(
        bboxes=torch.from_numpy(boxes(found)).float(),
        labels=torch.from_numpy(random.integers(CLASSES, size=found)),
        scores=torch.from_numpy(random.random(found)).float(),
    )
    return dict(instances=instances), detected


@pytest.mark.skipif(not TOOL.is_file(), reason='this mmdet was installed without its tools')
def test_counts_are_those_of_mmdet():
    spec = importlib.util.spec_from_file_location('mmdet_confusion_matrix', TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    images = [image(seed, *sizes) for seed, sizes in enumerate([(9, 7), (1, 12), (5, 0), (20, 20)])]
    dataset = SimpleNamespace(metainfo=dict(classes=range(CLASSES)))
    expected = np.zeros((CLASSES + 1, CLASSES + 1))
    for info, detected in images:
        tool.analyze_per_img_dets(expected, info['instances'], detected, 0.3, 0.5)
    counts = confusion_matrix(
        ((info, Detections.of(detected, 0.3)) for info, detected in images),
        len(dataset.metainfo['classes']),
    )
    assert counts.sum() > 40 and (counts[:-1, :-1] > 0).sum() > 5
    assert np.array_equal(counts, expected)


def test_image_without_objects_has_false_detections_only():
    info, detected = image(0, 0, 3)
    counts = confusion_matrix([(info, Detections.of(detected, 0.0))], CLASSES)
    assert counts[-1].sum() == counts.sum() == 3


def test_figure_has_percents_of_the_rows_and_the_classes_with_the_most_objects(monkeypatch):
    monkeypatch.setattr(confusion, 'CLASSES', 2)
    matrix = np.array([[3, 1, 0, 0], [0, 0, 0, 0], [0, 0, 4, 12], [2, 0, 0, 0]])
    figure = confusion_page(matrix, ('a', '$b', 'c'), 'title')
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ['a', 'c', 'background']
    texts = {text.get_position(): text.get_text() for text in axis.texts}
    assert texts == {(0, 0): '75', (1, 1): '25', (2, 1): '75', (0, 2): '100'}
    assert axis.get_title() == 'title\nthe 2 of 3 classes with the most objects'
