"""Mixed precision on the CPU: what is bfloat16 and what is not, near float32, through the tools."""

from __future__ import annotations

import copy
import json
import math
from unittest import mock

import pytest
import torch
from mmdet.models.dense_heads import RetinaHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from cbam_det import BFloat16OptimWrapper, CPUAmpOptimWrapper
from cbam_det.engine import devices
from cbam_det.models.layers import CBAM
from cbam_det.utils.errors import InputError

from ..conftest import CONFIGS, QUICK

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two convolutions with a CBAM between; its output's mean square is the loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 32, 3)
        self.cbam = CBAM(32)
        self.last = nn.Conv2d(32, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.cbam(self.conv(x).relu()))


def wrap(net: nn.Module, kind: str = 'CPUAmpOptimWrapper', **options: object) -> CPUAmpOptimWrapper:
    optimizer = dict(type='SGD', lr=0.1, momentum=0.9)
    return build_optim_wrapper(net, dict(type=kind, optimizer=optimizer, **options))


def loss_of(wrapper: CPUAmpOptimWrapper, net: nn.Module, images: Tensor = IMAGES) -> Tensor:
    with wrapper.optim_context(net):
        return net(images).float().square().mean()


def test_a_step_s_forward_pass_is_bfloat16_and_what_it_leaves_float32():
    net = Net()
    wrapper = wrap(net)
    with wrapper.optim_context(net):
        assert net.conv(IMAGES).dtype == net(IMAGES).dtype == torch.bfloat16
    assert net(IMAGES).dtype == torch.float32
    wrapper.backward(loss_of(wrapper, net))
    wrapper.step()
    kept = [state['momentum_buffer'] for state in wrapper.optimizer.state.values()]
    gradients = [value.grad for value in net.parameters()]
    assert {value.dtype for value in [*net.parameters(), *gradients, *kept]} == {torch.float32}


def test_gradients_are_those_of_float32_to_five_hundredths():
    """bfloat16 keeps 8 bits, 4e-3; the norm of the difference in each weight's gradient's."""
    gradients = []
    for kind in ('OptimWrapper', 'CPUAmpOptimWrapper'):
        net = Net()
        wrapper = wrap(net, kind)
        wrapper.backward(loss_of(wrapper, net))
        gradients.append([value.grad for value in net.parameters()])
    errors = [
        ((exact - rounded).norm() / exact.norm()).item()
        for exact, rounded in zip(*gradients, strict=True)
    ]
    assert 0 < max(errors) < 0.05


def test_two_halves_of_a_batch_accumulate_to_the_step_of_the_whole():
    whole, halves = Net(), Net()
    wrapper = wrap(whole)
    wrapper.update_params(loss_of(wrapper, whole))
    wrapper = wrap(halves, accumulative_counts=2)
    start = halves.conv.weight.clone()
    for count, images in enumerate(IMAGES.split(2)):
        assert torch.equal(halves.conv.weight, start), f'a step before half {count}'
        wrapper.update_params(loss_of(wrapper, halves, images))
    step, other = whole.conv.weight - start, halves.conv.weight - start
    assert (step - other).norm() < 0.02 * step.norm() and step.norm() > 0


def test_a_resumed_wrapper_goes_on_as_one_that_did_not_stop():
    net = Net()
    wrapper = wrap(net)
    wrapper.update_params(loss_of(wrapper, net))
    again = Net()
    again.load_state_dict(net.state_dict())
    resumed = wrap(again)
    # A run on a GPU leaves its scaler's state, which has no meaning here.
    state = copy.deepcopy(wrapper.state_dict())
    resumed.load_state_dict({**state, 'loss_scaler': {'scale': 65536.0}})
    for model, optim in ((net, wrapper), (again, resumed)):
        optim.update_params(loss_of(optim, model))
    assert all(map(torch.equal, net.state_dict().values(), again.state_dict().values()))


def test_heads_return_and_roi_extractors_get_float32_in_a_step_and_no_hook_stays():
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)
            self.head = RetinaHead(2, 8, stacked_convs=1, feat_channels=8)
            layer = dict(type='RoIAlign', output_size=2, sampling_ratio=0)
            self.extractor = SingleRoIExtractor(layer, 8, [1])

    parts = Parts()
    box = torch.tensor([[0, 1.01, 2.02, 9.03, 8.04]])  # which bfloat16 would round
    with wrap(parts).optim_context(parts):
        features = (parts.conv(IMAGES),)
        assert features[0].dtype == torch.bfloat16
        assert {level.dtype for kind in parts.head(features) for level in kind} == {torch.float32}
        pooled = parts.extractor(features, box)
    assert torch.equal(pooled, parts.extractor((features[0].float(),), box))
    assert not any(module._forward_hooks for module in parts.modules())
    assert not any(module._forward_pre_hooks for module in parts.modules())


def config(**options: object) -> Config:
    optimizer = dict(type='SGD', lr=0.1)
    return Config(dict(optim_wrapper=dict(type='AmpOptimWrapper', optimizer=optimizer, **options)))


@pytest.mark.parametrize('dtype', [None, 'bfloat16', torch.bfloat16])
def test_without_a_gpu_the_config_gets_the_cpu_s_wrapper_and_loses_the_scaler_s_options(dtype):
    cfg = config(loss_scale='dynamic', use_fsdp=False, dtype=dtype, clip_grad=dict(max_norm=1))
    with mock.patch('torch.cuda.is_available', return_value=False):
        adapted = devices.adapt_amp(cfg.optim_wrapper)
    optimizer = dict(type='SGD', lr=0.1)
    left = dict(type='CPUAmpOptimWrapper', optimizer=optimizer, clip_grad=dict(max_norm=1))
    assert adapted == left
    assert type(build_optim_wrapper(Net(), adapted)) is CPUAmpOptimWrapper


def test_with_a_gpu_bfloat16_gets_the_wrapper_that_keeps_boxes_in_float32():
    cfg = config(loss_scale='dynamic', dtype='bfloat16')
    with mock.patch('torch.cuda.is_available', return_value=True):
        adapted = devices.adapt_amp(cfg.optim_wrapper)
    assert adapted == {**cfg.optim_wrapper, 'type': 'BFloat16OptimWrapper'}
    assert OPTIM_WRAPPERS.get(adapted['type']) is BFloat16OptimWrapper


def test_with_a_gpu_the_config_stays_as_it_is():
    cfg = config(loss_scale='dynamic', dtype='float16')
    with mock.patch('torch.cuda.is_available', return_value=True):
        assert devices.adapt_amp(cfg.optim_wrapper) == cfg.optim_wrapper


@pytest.mark.parametrize('dtype', ['float16', torch.float16])
def test_float16_without_a_gpu_is_refused_with_the_remedy(dtype):
    words = r"optim_wrapper\.dtype='float16' needs a GPU .*give optim_wrapper\.dtype='bfloat16'"
    with (
        mock.patch('torch.cuda.is_available', return_value=False),
        pytest.raises(InputError, match=words),
    ):
        devices.adapt_amp(config(dtype=dtype).optim_wrapper)


@pytest.mark.parametrize(
    ('name', 'root'),
    [
        ('faster_rcnn_r50_cbam_digits', ''),
        pytest.param('retinanet_r50_cbam_digits_voc', 'VOCdevkit/VOC2007', marks=pytest.mark.slow),
        pytest.param('ssd300_vgg16_cbam_digits_voc', 'VOCdevkit/VOC2007', marks=pytest.mark.slow),
    ],
)
def test_a_detector_trains_with_amp_and_without_a_gpu(name, root, digits, run, tmp_path):
    options = ('--amp', '--work-dir', 'work', '--data-root', digits / root, '--cfg-options', *QUICK)
    done = run(
        'train.py',
        CONFIGS / f'{name}.py',
        *options,
        'train_cfg.max_epochs=1',
        cwd=tmp_path,
        CUDA_VISIBLE_DEVICES='',
    )
    assert done.stdout.count('mixed precision on the CPU: bfloat16 autocast') == 1
    (log,) = tmp_path.glob('work/*/vis_data/scalars.json')
    losses = [json.loads(line)['loss'] for line in log.open() if '"loss"' in line]
    assert len(losses) == 3 and all(map(math.isfinite, losses))
    checkpoint = CheckpointLoader.load_checkpoint(str(tmp_path / 'work/epoch_1.pth'))
    weights = [value for value in checkpoint['state_dict'].values() if value.is_floating_point()]
    assert {value.dtype for value in weights} == {torch.float32}
