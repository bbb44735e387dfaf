"""CocoMetric counts at any IoU thresholds, and leaves out the numbers that it then has not."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation.metrics import coco_metric
from mmdet.registry import METRICS
from pycocotools.cocoeval import COCOeval

from cbam_det.evaluation.metrics import fix_metrics

# One object of 100 x 100 pixels in each image, detected with these overlaps.
OVERLAPS = dict(cat=(0.9, 0.6), dog=(0.8, 0.8))
LABELS = dict(cat=0, dog=1)


@pytest.fixture(scope='module')
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    boxes = [(name, overlap) for name in OVERLAPS for overlap in OVERLAPS[name]]
    content = dict(
        images=[dict(id=n, file_name=f'{n}.jpg', width=200, height=200) for n in range(4)],
        categories=[dict(id=label + 1, name=name) for name, label in LABELS.items()],
        annotations=[
            dict(id=n + 1, image_id=n, category_id=LABELS[name] + 1, bbox=[0, 0, 100, 100])
            | dict(area=10_000, iscrowd=0)
            for n, (name, _) in enumerate(boxes)
        ],
    )
    path = tmp_path_factory.mktemp('truth') / 'truth.json'
    path.write_text(json.dumps(content))
    return path


def numbers(truth: Path, kind: str = 'CocoMetric', **options: object) -> dict[str, float]:
    fix_metrics()
    metric = METRICS.build(dict(type=kind, ann_file=str(truth), **options))
    metric.dataset_meta = dict(classes=tuple(LABELS))
    overlaps = [(name, overlap) for name in OVERLAPS for overlap in OVERLAPS[name]]
    samples = [
        dict(
            img_id=n,
            ori_shape=(200, 200),
            pred_instances=dict(
                bboxes=torch.tensor([[0, 0, 100, 100 * overlap]]),
                scores=torch.tensor([0.9]),
                labels=torch.tensor([LABELS[name]]),
            ),
        )
        for n, (name, overlap) in enumerate(overlaps)
    ]
    metric.process({}, samples)
    return metric.evaluate(len(samples))


KINDS = ('CocoMetric', 'FastCocoMetric')


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(
    'thresholds', [0.5, [0.5], np.array([0.5])], ids=['number', 'list', 'array']
)
def test_one_threshold_gives_its_ap_and_no_other(kind, thresholds, truth):
    found = numbers(truth, kind, iou_thrs=thresholds, classwise=True)
    assert found['coco/bbox_mAP'] == found['coco/bbox_mAP_50'] == 1
    assert found['coco/cat_precision'] == found['coco/dog_precision'] == 1
    assert 'coco/bbox_mAP_75' not in found and 'coco/bbox_mAP_l' in found


@pytest.mark.parametrize('kind', KINDS)
def test_each_threshold_has_its_own_ap_in_whatever_order_they_are(kind, truth):
    """At 0.75 one of two cats is found, so that the AP of cats is 51 of 101 recalls."""
    half = 0.505
    found = numbers(truth, kind, iou_thrs=[0.85, 0.75, 0.5], classwise=True)
    assert found['coco/bbox_mAP_50'] == 1
    assert found['coco/bbox_mAP_75'] == pytest.approx((1 + half) / 2, abs=1e-3)
    assert found['coco/cat_precision'] == pytest.approx((half + half + 1) / 3, abs=1e-3)
    assert found['coco/dog_precision'] == pytest.approx((0 + 1 + 1) / 3, abs=1e-3)
    assert found['coco/bbox_mAP'] == pytest.approx((half / 2 + (1 + half) / 2 + 1) / 3, abs=1e-3)


def test_ap_of_classes_is_printed_under_its_threshold(truth, monkeypatch):
    tables = []
    monkeypatch.setattr(
        coco_metric, 'AsciiTable', lambda rows: tables.append(rows) or SimpleNamespace(table='')
    )
    numbers(truth, iou_thrs=[0.55, 0.75], classwise=True)
    ((heading, cat, _),) = tables
    assert heading[:4] == ['category', 'mAP', 'mAP_50', 'mAP_75']
    assert cat[:4] == ('cat', '0.752', 'nan', '0.505')


def test_named_numbers_without_their_threshold_are_left_out(truth):
    items = ['mAP', 'mAP_50', 'mAP_75', 'AR@100']
    found = numbers(truth, iou_thrs=[0.6], metric_items=items)
    assert list(found) == ['coco/bbox_mAP', 'coco/bbox_AR@100']


def test_coco_s_own_thresholds_give_what_they_gave(truth):
    with_thresholds = numbers(truth, classwise=True, iou_thrs=np.linspace(0.5, 0.95, 10).tolist())
    assert numbers(truth, classwise=True) == pytest.approx(with_thresholds, abs=0, nan_ok=True)


def test_pycocotools_still_finds_no_threshold_in_a_list(truth):
    """Once it does, `coco_thresholds` need not make an array of it."""
    coco = COCO(str(truth))
    rows = [dict(image_id=0, category_id=1, bbox=[0, 0, 100, 100], score=1.0)]
    run = COCOeval(coco, coco.loadRes(rows), 'bbox')
    run.params.iouThrs, run.params.maxDets = [0.5, 0.75], [100, 300, 1000]
    run.evaluate()
    run.accumulate()
    with contextlib.suppress(ValueError):  # of NumPy 2
        run.summarize()
        assert run.stats[0] > 0 and run.stats[1] == -1
    run.params.iouThrs = np.array([0.5, 0.75])
    run.summarize()
    assert run.stats[1] > 0
