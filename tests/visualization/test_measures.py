"""Numbers of many objects: how much heat lies on them, and precision against recall."""

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
from cbam_det.visualization.gradcam import in_box, inside
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
    shown = in_box(heat, np.array([10.5, 5.0, 20.0, 10.0]))
    assert shown[7, 15] == 1 and shown.sum() == 1


def test_paired_difference_has_its_interval_around_it():
    assert difference(np.full(9, 0.25)) == [0.25, 0.25, 0.25]
    middle, low, high = difference(np.random.default_rng(1).normal(0.3, 0.1, 400))
    assert low < middle < high and middle == pytest.approx(0.3, abs=0.02)
    assert high - low == pytest.approx(2 * 1.96 * 0.1 / 20, rel=0.15)
    assert difference(np.array([0.1, 0.3])) == [0.2, None, None]


def test_focus_counts_objects_that_every_model_finds(digits):
    cfg = read_config(DIGITS)
    root = f'{digits}/'
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = root
    cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = (
        f'{root}annotations/instances_val2017.json'
    )
    content = json.loads((digits / 'annotations/instances_val2017.json').read_text())
    numbers = {one['id']: at for at, one in enumerate(content['categories'])}
    boxes: dict[str, list] = {}
    for one in content['annotations']:
        x, y, w, h = one['bbox']
        name = next(i['file_name'] for i in content['images'] if i['id'] == one['image_id'])
        box = torch.tensor([x, y, x + w, y + h])
        boxes.setdefault(name, []).append(
            Prediction(numbers[one['category_id']], torch.tensor(0.9), box)
        )

    for found in boxes.values():  # as good, but not sure enough
        found.append(Prediction(found[0].label, torch.tensor(0.2), found[0].box))

    def explainer(name: str, draw: Callable, missing: int = 0) -> SimpleNamespace:
        see = lambda path: SimpleNamespace(picture=read_image(path), name=Path(path).name)  # noqa: E731
        classes = cfg.metainfo.classes if 'metainfo' in cfg else ()
        predict = lambda prepared: boxes[prepared.name][missing:]  # noqa: E731
        of = SimpleNamespace(name=name, prepare=see, predict=predict, classes=tuple(classes))
        return SimpleNamespace(
            predictor=of,
            heat=lambda prepared, found, choice: draw(prepared, found),
            choices=lambda prepared: {'layer': []},
            method='hirescam',
            target='score',
        )

    def only_inside(prepared: SimpleNamespace, found: Prediction) -> np.ndarray:
        heat = np.zeros(prepared.picture.shape[:2])
        x1, y1, x2, y2 = found.corners.round().astype(int)
        heat[y1:y2, x1:x2] = 1
        return heat

    even = explainer('even', lambda prepared, found: np.ones(prepared.picture.shape[:2]))
    record = focus(cfg, [even, explainer('even', only_inside, missing=1)], 'val', 5)
    images = sum(len(found) > 2 for found in boxes.values())
    objects = sum(len(found) - 1 for found in boxes.values())
    assert (record['images'], record['objects']) == (images, objects - len(boxes))
    assert record['left_out'] == len(boxes)
    assert record['layers'] == {'layer': record['objects']}
    rows = record['rows']
    assert list(rows) == ['even', 'even (2)']
    assert rows['even']['energy'][0] == pytest.approx(record['chance'], abs=1e-4)
    assert rows['even (2)']['energy'][0] > 0.9 and rows['even (2)']['pointing'] == [1, 0]
    more = rows['even (2)']['energy'][0] - rows['even']['energy'][0]
    assert rows['even (2)']['energy_more'][0] == pytest.approx(more, abs=2e-4)
    nothing = explainer('nothing', lambda prepared, found: np.zeros(prepared.picture.shape[:2]))
    with pytest.raises(InputError, match=f'of {objects} objects in 5 images none is found'):
        focus(cfg, [even, nothing], 'val', 5)
    with pytest.raises(InputError, match='none is found by every model'):
        focus(cfg, [even, explainer('blind', only_inside, missing=100)], 'val', 5)


def test_precision_of_known_detections(digits):
    cfg = read_config(DIGITS)
    cfg.test_dataloader.dataset.data_root = f'{digits}/'
    cfg.test_evaluator.ann_file = f'{digits}/annotations/instances_val2017.json'
    truth = ground_truth(dataset_of(cfg, 'test'))
    objects = truth.dataset['annotations']
    perfect = [
        dict(score=0.9, **{key: one[key] for key in ('image_id', 'category_id', 'bbox')})
        for one in objects
    ]
    present = {one['category_id'] for one in objects}
    values = precision(truth, perfect)
    assert all(np.allclose(values[:, :, k], 1) for k in present)
    assert all((values[:, :, k] == -1).all() for k in set(range(10)) - present)
    assert np.allclose(mean(values), 1)
    # Shifted by 0.35 of the width: an IoU of 0.48, then of 0.54.
    for shift, wanted in ((0.35, 0), (0.3, 1)):
        moved = [dict(one, bbox=[*one['bbox']]) for one in perfect]
        for one in moved:
            one['bbox'][0] += shift * one['bbox'][2]
        values = precision(truth, moved)
        assert np.allclose(mean(values)[0], wanted) and not mean(values)[1].any()
    nothing = precision(truth, [])
    assert all((nothing[:, :, k] == -(k not in present)).all() for k in range(10))
