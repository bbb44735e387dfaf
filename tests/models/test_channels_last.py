"""channels_last=True gives the same numbers as without it, in every kind of detector."""

from __future__ import annotations

import contextlib
import copy
import importlib.util

import pytest
import torch
from mmcv.ops import DeformConv2d, RoIAlign
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.optim import OptimWrapper
from mmengine.structures import InstanceData
from torch import nn

from cbam_det.engine.optim_wrapper import CPUAmpOptimWrapper
from cbam_det.models.build import build_model
from cbam_det.models.channels_last import align_states, check_channels_last, to_channels_last
from cbam_det.utils.errors import InputError

from ..configs.test_configs import quick
from ..conftest import CONFIGS


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


def losses_of(model: nn.Module, size: int) -> dict[str, torch.Tensor]:
    """The losses of a detector for two random images with an object."""
    shapes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape'), (size, size))
    sample = DetDataSample(metainfo=dict(shapes, batch_input_shape=(size, size)))
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[8.0, 8, 40, 40]]), labels=torch.tensor([1])
    )
    torch.manual_seed(1)
    losses = model.train().loss(torch.rand(2, 3, size, size), [sample] * 2)
    return {
        name: sum(value) if isinstance(value, list) else value
        for name, value in losses.items()
        if 'loss' in name
    }


@pytest.mark.parametrize('amp', [False, True], ids=['float32', 'bfloat16'])
@pytest.mark.parametrize(
    ('name', 'size'),
    [
        *(('faster_rcnn_r18_cbam', 64), ('retinanet_mobilenetv2_cbam_neck_digits', 64)),
        *(('rtmdet_tiny_cbam', 64), ('stairnet_mobilenetv2_cbam_voc07', 300)),
    ],
)
def test_losses_and_gradients_of_a_shipped_config_are_those_without_it(name, size, amp):
    model = build_model(quick(Config.fromfile(CONFIGS / f'{name}.py')))
    model.init_weights()
    results = []
    for detector in (copy.deepcopy(model), to_channels_last(model)):
        wrapper = CPUAmpOptimWrapper(optimizer=torch.optim.SGD(detector.parameters(), 0.1))
        with wrapper.optim_context(detector) if amp else contextlib.nullcontext():
            losses = losses_of(detector, size)
        total = sum(losses.values())
        total.backward()
        weights = dict(detector.named_parameters())
        norms = {name: weight.grad.norm() for name, weight in weights.items() if '_gate.' in name}
        results.append((total, losses, norms))
    (plain, plain_losses, plain_norms), (total, losses, norms) = results
    assert plain_norms
    if amp:
        torch.testing.assert_close(total, plain, rtol=0.1, atol=0.02)
    else:
        torch.testing.assert_close(losses, plain_losses, rtol=5e-4, atol=1e-5)
        torch.testing.assert_close(norms, plain_norms, rtol=1e-2, atol=1e-3)


def test_models_that_read_contiguous_maps_alone_are_refused_with_the_reason():
    tood = get_config('mmdet::tood/tood_r50_fpn_1x_coco.py')
    with pytest.raises(InputError, match=r"bbox_head \(TOODHead\) calls mmcv's deform_conv2d"):
        check_channels_last(build_model(tood))
    with pytest.raises(InputError, match=r'0 \(Conv3d\) has the weights of a 3-D one; leave --ch'):
        to_channels_last(nn.Sequential(nn.Conv3d(1, 1, 3)))
    check_channels_last(nn.Sequential(RoIAlign(7, 1.0, 1), nn.Conv2d(1, 1, 3)))


SOURCE = """
import mmcv.ops
from mmcv.ops import RoIAlign, deform_conv2d as deform
from mmengine.model import BaseModule


def convolve(x):
    return [deform(x, x, x) for _ in range(1)][0]


class Direct(BaseModule):
    def forward(self, x):
        return deform(x, x, x)


class Heir(Direct):
    pass


class ByFunction(BaseModule):
    def forward(self, x):
        return convolve(x)


class ByModule(BaseModule):
    @staticmethod
    def pool(x):
        return mmcv.ops.roi_align(x, x, 7)


class Other(BaseModule):
    def __init__(self):
        super().__init__()
        self.roi_align = RoIAlign(7, 1.0, 1)

    def forward(self, x, rois):
        return self.roi_align(x, rois)
"""


def test_only_classes_whose_own_code_uses_an_operator_as_a_function_are_refused(tmp_path):
    file = tmp_path / 'operators_in_one_file.py'
    file.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, function in (
        *(('Direct', 'deform_conv2d'), ('Heir', 'deform_conv2d'), ('ByFunction', 'deform_conv2d')),
        ('ByModule', 'roi_align'),
    ):
        with pytest.raises(InputError, match=f"0 \\({name}\\) calls mmcv's {function}, "):
            check_channels_last(nn.Sequential(getattr(module, name)()))
    check_channels_last(nn.Sequential(module.Other()))


def test_states_keep_their_device_and_the_count_of_steps_is_no_weight():
    """As on a GPU, where the count of steps is on the CPU."""
    weight = nn.Parameter(torch.ones((), device='meta'))
    optimizer = torch.optim.AdamW([weight])
    count = torch.tensor(3.0)
    optimizer.state[weight] = dict(step=count)
    align_states(OptimWrapper(optimizer))
    assert optimizer.state[weight]['step'] is count
    kernel = nn.Parameter(torch.ones(2, 2, 3, 3, device='meta'))
    optimizer.add_param_group(dict(params=[kernel]))
    optimizer.state[kernel] = dict(exp_avg=torch.ones(2, 2, 3, 3))
    align_states(OptimWrapper(optimizer))
    assert optimizer.state[kernel]['exp_avg'].device.type == 'cpu'
