"""Measures over many objects: the share of heat inside them, and precision over recall."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cbam_det.apis.inference import Prediction, read_image
from cbam_det.utils.config import read_config
from cbam_det.utils.errors import InputError
from cbam_det.visualization.detections import dataset_of
from cbam_det.visualization.focus import difference, focus
from cbam_det.visualization.heat import inside, scaled_in_box
from cbam_det.visualization.precision import ground_truth, mean, precision

from .untrained import DIGITS

pytestmark = pytest.mark.usefixtures('one_thread')


def test_share_of_heat_and_peak_are_those_inside_the_box():
    heat = np.zeros((10, 20))
    heat[2, 3], heat[7, 15] = 3, 1
    assert inside(heat, np.array([0, 0, 10, 5])) == (0.75, True)
    assert inside(heat, np.array([10, 5, 20, 10])) == (0.25, False)
    assert inside(heat, np.array([3, 2, 4, 3])) == (0.75, True)  # the pixel's own box
    assert inside(np.ones((10, 20)), np.array([0, 0, 10, 10])) == (0.5, True)
    assert inside(np.zeros((10, 20)), np.array([0, 0, 20, 10])) is None
    shown = scaled_in_box(heat, np.array([10.5, 5.0, 20.0, 10.0]))
    assert shown[7, 15] == 1 and shown.sum() == 1


def test_paired_difference_has_its_interval_around_it():
    assert difference(np.full(9, 0.25)) == [0.25, 0.25, 0.25]
    middle, low, high = difference(np.random.default_rng(1).normal(0.3, 0.1, 400))
    assert low < middle < high and middle == pytest.approx(0.3, abs=0.02)
    assert high - low == pytest.approx(2 * 1.96 * 0.1 / 20, rel=0.15)
    assert difference(np.array([0.1, 0.3])) == [0.2, None, None]


def test_focus_uses_objects_that_every_model_detects(digits):
    cfg = read_config(DIGITS)
    root = f'{digits}/'
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = root
    cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = (
        f'{root}annotations/instances_val2017.json'
    )
    content = json.loads((digits / 'annotations/instances_val2017.json').read_text())
    labels = {category['id']: label for label, category in enumerate(content['categories'])}
    file_names = {image['id']: image['file_name'] for image in content['images']}
    predictions: dict[str, list] = {}
    for annotation in content['annotations']:
        x, y, w, h = annotation['bbox']
        box = torch.tensor([x, y, x + w, y + h])
        predictions.setdefault(file_names[annotation['image_id']], []).append(
            Prediction(labels[annotation['category_id']], torch.tensor(0.9), box)
        )

    for detections in predictions.values():  # the right box, but a score below the threshold
        detections.append(Prediction(detections[0].label, torch.tensor(0.2), detections[0].box))

    def explainer(name: str, draw: Callable, missing: int = 0) -> SimpleNamespace:
        classes = cfg.metainfo.classes if 'metainfo' in cfg else ()
        predictor = SimpleNamespace(
            name=name,
            classes=tuple(classes),
            prepare=lambda path: SimpleNamespace(picture=read_image(path), name=Path(path).name),
            predict=lambda prepared: predictions[prepared.name][missing:],
        )
        return SimpleNamespace(
            predictor=predictor,
            heat=lambda prepared, prediction, choice: draw(prepared, prediction),
            choices=lambda prepared: {'layer': []},
            method='hirescam',
            target='score',
        )

    def only_inside(prepared: SimpleNamespace, prediction: Prediction) -> np.ndarray:
        heat = np.zeros(prepared.picture.shape[:2])
        x1, y1, x2, y2 = prediction.corners.round().astype(int)
        heat[y1:y2, x1:x2] = 1
        return heat

    even = explainer('even', lambda prepared, _: np.ones(prepared.picture.shape[:2]))
    record = focus(cfg, [even, explainer('even', only_inside, missing=1)], 'val', 5)
    images = sum(len(detections) > 2 for detections in predictions.values())
    objects = sum(len(detections) - 1 for detections in predictions.values())
    assert (record['images'], record['objects']) == (images, objects - len(predictions))
    assert record['left_out'] == len(predictions)
    assert record['layers'] == {'layer': record['objects']}
    rows = record['rows']
    assert list(rows) == ['even', 'even (2)']
    assert rows['even']['energy'][0] == pytest.approx(record['chance'], abs=1e-4)
    assert rows['even (2)']['energy'][0] > 0.9 and rows['even (2)']['pointing'] == [1, 0]
    gain = rows['even (2)']['energy'][0] - rows['even']['energy'][0]
    assert rows['even (2)']['energy_more'][0] == pytest.approx(gain, abs=2e-4)
    no_heat = explainer('no heat', lambda prepared, _: np.zeros(prepared.picture.shape[:2]))
    with pytest.raises(InputError, match=f'none of {objects} objects in 5 images is detected'):
        focus(cfg, [even, no_heat], 'val', 5)
    with pytest.raises(InputError, match='is detected by every model'):
        focus(cfg, [even, explainer('blind', only_inside, missing=100)], 'val', 5)


def test_precision_of_known_detections(digits):
    cfg = read_config(DIGITS)
    cfg.test_dataloader.dataset.data_root = f'{digits}/'
    cfg.test_evaluator.ann_file = f'{digits}/annotations/instances_val2017.json'
    truth = ground_truth(dataset_of(cfg, 'test'))
    objects = truth.dataset['annotations']
    perfect = [
        dict(score=0.9, **{key: annotation[key] for key in ('image_id', 'category_id', 'bbox')})
        for annotation in objects
    ]
    present = {annotation['category_id'] for annotation in objects}
    values = precision(truth, perfect)
    assert all(np.allclose(values[:, :, k], 1) for k in present)
    assert all((values[:, :, k] == -1).all() for k in set(range(10)) - present)
    assert np.allclose(mean(values), 1)
    # Shifted by 0.35 of the width: an IoU of 0.48, then of 0.54.
    for shift, ap50 in ((0.35, 0), (0.3, 1)):
        moved = [dict(row, bbox=[*row['bbox']]) for row in perfect]
        for row in moved:
            row['bbox'][0] += shift * row['bbox'][2]
        values = precision(truth, moved)
        assert np.allclose(mean(values)[0], ap50) and not mean(values)[1].any()
    nothing = precision(truth, [])
    assert all((nothing[:, :, k] == -(k not in present)).all() for k in range(10))
