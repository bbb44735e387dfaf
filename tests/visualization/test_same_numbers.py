"""Precision-recall curves have the AP50 of `tools/test.py`."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
import torch
from mmdet.registry import METRICS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData

from cbam_det.datasets.validation.data_root import set_data_root
from cbam_det.visualization import precision as precision_module
from cbam_det.visualization.detections import dataset_of
from cbam_det.visualization.precision import detections, ground_truth, mean, precision

from ..conftest import CONFIGS, SMALL, in_process
from .padded_detector import PaddedDetector

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


@pytest.fixture
def uneven(digits: Path, tmp_path: Path) -> Path:
    """A set in VOC's layout whose images are of different shapes."""
    root = Path(shutil.copytree(digits / 'VOCdevkit/VOC2007', tmp_path / 'VOC2007'))
    for number, file in enumerate(sorted((root / 'JPEGImages').iterdir())):
        border = dict(top=0, left=0, bottom=24 * (number % 3), right=40 * (number % 2))
        picture = cv2.copyMakeBorder(
            cv2.imread(str(file)), **border, borderType=cv2.BORDER_CONSTANT
        )
        cv2.imwrite(str(file), picture)
        xml = root / f'Annotations/{file.stem}.xml'
        text = xml.read_text()
        for side, size in zip(('height', 'width'), picture.shape[:2], strict=True):
            text = re.sub(f'<{side}>.*?</{side}>', f'<{side}>{size}</{side}>', text)
        xml.write_text(text)
    return root


def test_both_tools_show_one_number_of_images_of_different_shapes(uneven, tmp_path, monkeypatch):
    """In batches of any size, and another one in each size, as the images are padded."""
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(CONFIG)
    preprocessor = cfg.model.data_preprocessor.to_dict()
    Path('mine.py').write_text(
        f'_base_ = [{str(CONFIG)!r}]\n'
        "custom_imports = dict(imports=['cbam_det', 'tests.visualization.padded_detector'])\n"
        f"model = dict(_delete_=True, type='PaddedDetector', data_preprocessor={preprocessor})\n"
    )
    torch.save(dict(state_dict=PaddedDetector(preprocessor).state_dict()), 'weights.pth')
    figures: list = []

    def drawn(*args: object) -> object:
        figures.append(draw(*args))
        return figures[-1]

    draw = precision_module.precisions
    monkeypatch.setattr(precision_module, 'precisions', drawn)
    scores = []
    for batch in (1, 3):
        options = ('--data-root', uneven, '--cfg-options', f'test_dataloader.batch_size={batch}')
        options += ('test_dataloader.num_workers=0',)
        work = ('--work-dir', f'work{batch}')
        assert in_process('test')('mine.py', 'weights.pth', *work, *options) == 0
        assert in_process('visualize')('pr', 'mine.py', 'weights.pth', *options) == 0
        (record,) = Path(f'work{batch}').glob('*/metrics.json')
        metrics = json.loads(record.read_text())['metrics']
        ap50, ap75 = (metrics[f'coco/bbox_mAP_{iou}'] for iou in (50, 75))
        assert figures[-1].axes[0].texts[0].get_text() == f'{ap50:.3f} / {ap75:.3f}'
        scores.append((ap50, ap75))
    (ap50, ap75), in_batches = scores
    assert 0.1 < ap50 < 1 and ap75 > in_batches[1]  # the batch matters, so both tools had one
