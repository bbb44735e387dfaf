"""Parameters, multiply-adds and memory of detectors, against independent counts."""

from __future__ import annotations

from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cbam_det.models import costs
from cbam_det.models.build import build_model
from cbam_det.models.costs import activation_bytes, count_costs, input_size
from cbam_det.utils.errors import InputError
from cbam_det.visualization import report

from ..conftest import CONFIGS


def by_hand(model: nn.Module, image: torch.Tensor, regions: int) -> int:
    """Multiply-adds by hooks on every convolution and linear layer of a real forward."""
    total = 0

    def add(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        nonlocal total
        per_output = module.weight[0].numel()
        total += output.numel() * per_output

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(add)
    features = model.extract_feat(image)
    model.rpn_head(features)
    model.roi_head.bbox_head(torch.rand(regions, features[0].shape[1], 7, 7))
    return total


@pytest.mark.parametrize(('name', 'cbams'), [('faster_rcnn_r50', 0), ('faster_rcnn_r50_cbam', 16)])
def test_counts_equal_those_of_hooks_on_a_real_forward(name, cbams):
    cfg = Config.fromfile(CONFIGS / f'{name}_digits.py')
    cost, model = count_costs(cfg), build_model(cfg)
    model.eval()
    assert (cost.size, cost.cbams) == ((192, 192), cbams)
    assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())
    with torch.no_grad():
        assert cost.multiply_adds == by_hand(model, torch.rand(1, 3, 192, 192), 200)


@pytest.mark.parametrize(('style', 'giga'), [('caffe', 3.858), ('pytorch', 4.089)])
def test_resnet_50_has_the_paper_s_multiply_adds_with_its_strides(style, giga):
    with DefaultScope.overwrite_default_scope('mmdet'):
        net = MODELS.build(dict(type='ResNet', depth=50, style=style)).to('meta')
    with FlopCounterMode(display=False) as counter:
        top = net(torch.empty(1, 3, 224, 224, device='meta'))[-1]
        nn.Linear(2048, 1000, device='meta')(top.mean((2, 3)))
    assert round(counter.get_total_flops() / 2e9, 3) == giga


@pytest.mark.parametrize(
    ('name', 'size'),
    [
        ('faster_rcnn_r50', (800, 1344)),
        ('ssd512_vgg16_cbam', (512, 512)),
        ('faster_rcnn_r50_c4', (608, 1024)),
    ],
)
def test_input_is_the_test_image_padded_as_the_preprocessor_does(name, size):
    assert input_size(Config.fromfile(CONFIGS / f'{name}.py')) == size


def test_unknown_size_and_detectors_that_cannot_be_counted_are_an_error_and_a_note(monkeypatch):
    cfg = Config.fromfile(CONFIGS / 'retinanet_r18_cbam.py')
    run = SimpleNamespace(cfg=cfg)
    monkeypatch.setattr(costs, '_forward', mock.Mock(side_effect=TypeError('queries')))
    message = "the multiply-adds of RetinaNet cannot be counted (TypeError: queries); use mmdet's"
    assert report._costs([run]).note.startswith(message)
    pipeline = cfg.test_dataloader.dataset.pipeline
    pipeline[1].scale = 640  # as LetterResize of mmyolo and others have it
    assert input_size(cfg) == (640, 640)
    del pipeline[1]
    with pytest.raises(InputError, match=r'has no Resize with a scale .* add dict\(type='):
        input_size(cfg)


@pytest.mark.parametrize('name', ['faster_rcnn_r50_cbam_digits', 'retinanet_mobilenetv2_cbam_bccd'])
def test_kept_memory_is_what_autograd_saves_in_a_real_pass(name):
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    model = build_model(cfg)
    model.train()
    state_storages = {tensor.data_ptr() for tensor in model.state_dict().values()}
    saved = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in state_storages:
            saved[storage.data_ptr()] = storage
        return tensor

    images = torch.rand(2, 3, *input_size(cfg))
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        features = model.extract_feat(images)
        if name.startswith('retinanet'):
            model.bbox_head(features)
        else:
            model.rpn_head(features)
            model.roi_head.bbox_head(torch.rand(2 * 48, features[0].shape[1], 7, 7))
    real = sum(storage.nbytes() for storage in saved.values()) / 2
    assert activation_bytes(cfg) == pytest.approx(real, rel=0.01)
