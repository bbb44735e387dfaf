"""Precision-recall curves have the AP50 of `tools/test.py`."""

from __future__ import annotations

import contextlib
import io
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import METRICS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData

from cbam_det.datasets.validation.data_root import set_data_root
from cbam_det.visualization.detections import dataset_of
from cbam_det.visualization.precision import detections, ground_truth, mean, precision

from ..conftest import CONFIGS, SMALL

CONFIG = CONFIGS / 'faster_rcnn_r50_cbam_digits_voc.py'


class Jitter:
    """Detects each object with a small shift, and 150 false positives with higher scores."""

    def __init__(self, cfg: Config) -> None:
        self.random = torch.Generator().manual_seed(0)
        self.batches: list[int] = []
        self.samples: list[DetDataSample] = []

    def test_step(self, batch: dict) -> list[DetDataSample]:
        self.batches.append(len(batch['data_samples']))
        for sample in batch['data_samples']:
            truth = torch.tensor([instance['bbox'] for instance in sample.instances])
            labels = torch.tensor([instance['bbox_label'] for instance in sample.instances])
            shift = 8 * torch.rand(len(truth), 4, generator=self.random)
            sample.pred_instances = InstanceData(
                bboxes=torch.cat([torch.rand(150, 4) + torch.tensor([0, 0, 2, 2]), truth + shift]),
                labels=torch.cat([torch.zeros(150, dtype=torch.long), labels]),
                scores=torch.cat([0.9 + 0.1 * torch.rand(150), 0.5 * torch.rand(len(truth))]),
            )
        self.samples += batch['data_samples']
        return batch['data_samples']


@pytest.mark.parametrize('batch', [1, 2])
def test_precision_curves_have_the_ap50_of_the_evaluator_and_the_test_s_batches(batch, digits):
    cfg = Config.fromfile(CONFIG)
    set_data_root(cfg, str(digits / 'VOCdevkit/VOC2007'))
    assert cfg.test_dataloader.batch_size == 1
    cfg.test_dataloader.batch_size = batch
    dataset, model = dataset_of(cfg, 'test'), Jitter(cfg)
    rows = detections(SimpleNamespace(cfg=cfg, model=model, name='jitter'), dataset, 'test')
    assert model.batches == [1] * SMALL.val if batch == 1 else [2, 2, 1]
    values = precision(ground_truth(dataset), rows)
    metric = METRICS.build(cfg.test_evaluator[0])
    metric.dataset_meta = dataset.metainfo
    with contextlib.redirect_stdout(io.StringIO()):
        metric.process({}, [sample.to_dict() for sample in model.samples])
        scores = metric.evaluate(len(dataset))
    ap50, ap75 = mean(values).mean(1)
    assert 0.1 < scores['coco/bbox_mAP_50'] < 1
    assert scores['coco/bbox_mAP_50'] == pytest.approx(ap50, abs=5e-4)
    assert scores['coco/bbox_mAP_75'] == pytest.approx(ap75, abs=5e-4)
