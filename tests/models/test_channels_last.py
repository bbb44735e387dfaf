"""channels_last=True gives the same numbers as without it, in every kind of detector."""

from __future__ import annotations

import json

import pytest
import torch
from mmcv.ops import DeformConv2d, RoIAlign
from mmengine.config import Config
from torch import nn

from cbam_det.models.build import build_model
from cbam_det.models.compat import to_channels_last

from ..conftest import CONFIGS, QUICK


def is_channels_last(x: torch.Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def test_mmcv_s_operators_compute_the_same_of_maps_in_either_format():
    """Without the patch they read the memory of a channels-last map in the wrong order."""
    x = torch.randn(2, 16, 20, 20, requires_grad=True)
    last = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    rois = torch.tensor([[0, 2.0, 2, 15, 15], [1, 4, 4, 19, 12]])
    align = RoIAlign(7, 1.0, 1)
    assert not torch.allclose(align(x, rois), align(last, rois))  # fails when mmcv fixes it
    fixed = to_channels_last(nn.Sequential(RoIAlign(7, 1.0, 1)))[0]
    torch.testing.assert_close(fixed(last, rois), align(x, rois), rtol=0, atol=0)
    grads = [
        torch.autograd.grad(op(y, rois).square().sum(), y)[0]
        for op, y in ((align, x), (fixed, last))
    ]
    torch.testing.assert_close(*grads)
    conv = DeformConv2d(16, 4, 3, padding=1)
    offsets = 0.1 * torch.randn(2, 18, 20, 20)
    expected = conv(x, offsets)
    actual = to_channels_last(nn.Sequential(conv))[0](
        last, offsets.contiguous(memory_format=torch.channels_last)
    )
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    'name',
    ['faster_rcnn_r18_half_cbam_voc07', 'retinanet_r18_cbam', 'stairnet_mobilenetv2_cbam_voc07'],
)
def test_features_and_regions_of_a_detector_are_those_without_it(name):
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    cfg.model.backbone.init_cfg = None
    torch.manual_seed(0)
    plain = build_model(cfg)
    plain.init_weights()
    plain.eval()
    converted = build_model(cfg)
    converted.load_state_dict(plain.state_dict())
    converted = to_channels_last(converted.eval())
    image = torch.randn(1, 3, 300, 300)
    rois = torch.tensor([[0, 10.0, 10, 200, 150], [0, 40, 60, 280, 290]])
    with torch.no_grad():
        ours, theirs = (list(model.extract_feat(image)) for model in (converted, plain))
        assert is_channels_last(ours[0]) and theirs[0].is_contiguous()
        if getattr(plain, 'with_roi_head', False):
            for model, maps in ((converted, ours), (plain, theirs)):
                extract = model.roi_head.bbox_roi_extractor
                maps.append(extract(maps[: extract.num_inputs], rois))
    for map_pair in zip(ours, theirs, strict=True):
        torch.testing.assert_close(*map_pair, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_run_with_it_logs_the_losses_of_one_without_it(digits, run, tmp_path):
    logged = {}
    for value in (True, False):
        options = (*QUICK, 'train_cfg.max_epochs=1', f'channels_last={value}')
        where = ('--work-dir', str(value), '--data-root', digits, '--cfg-options', *options)
        run('train.py', CONFIGS / 'faster_rcnn_r18_cbam_digits.py', *where, cwd=tmp_path)
        log = next((tmp_path / str(value)).glob('*/vis_data/scalars.json'))
        lines = map(json.loads, log.read_text().splitlines())
        logged[value] = [line['loss'] for line in lines if 'loss' in line]
    assert len(logged[True]) == 3 and logged[True] == pytest.approx(logged[False], rel=2e-3)
    state = torch.load(tmp_path / 'True/epoch_1.pth', weights_only=False)['state_dict']
    assert is_channels_last(state['backbone.layer2.0.conv1.weight'])
