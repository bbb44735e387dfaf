"""Copied, exported, averaged and converted components with plugins compute the same."""

from __future__ import annotations

import copy
import pickle

import onnxruntime
import pytest
import torch
from mmengine.model import ExponentialMovingAverage, revert_sync_batchnorm
from mmengine.utils import digit_version
from torch import nn

from .components import BLOCKS, COMPONENTS, R18, randomise, with_cbam

pytestmark = pytest.mark.usefixtures('mmdet_scope')


def test_checkpointed_blocks_have_the_same_gradients():
    plain = randomise(with_cbam(R18, BLOCKS))
    checkpointed = randomise(with_cbam(dict(R18, with_cp=True), BLOCKS))
    checkpointed.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 64, 64)
    for net in (plain, checkpointed):
        net(x.clone().requires_grad_())[-1].sum().backward()
    pairs = zip(plain.named_parameters(), checkpointed.parameters(), strict=True)
    for (name, parameter), recomputed in pairs:
        torch.testing.assert_close(recomputed.grad, parameter.grad, msg=name)


@pytest.mark.parametrize(
    'change',
    [
        copy.deepcopy,
        lambda net: pickle.loads(pickle.dumps(net)),
        lambda net: torch.jit.trace(net, torch.zeros(1, 3, 64, 64)),
        lambda net: torch.compile(net, backend='eager'),
    ],
    ids=['deepcopy', 'pickle', 'trace', 'compile'],
)
def test_copies_run_the_same_function(change):
    net = randomise(with_cbam(dict(R18, out_indices=(3,)), BLOCKS))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected, actual = net(x), change(net)(x)
    assert torch.allclose(actual[-1], expected[-1], atol=1e-6)


EXPORTER = pytest.param(
    True,
    id='dynamo',
    marks=pytest.mark.skipif(
        digit_version(torch.__version__) < digit_version('2.6.0'),
        reason="this torch's dynamo exporter fails at a BatchNorm in eval mode",
    ),
)


@pytest.mark.parametrize('dynamo', [pytest.param(False, id='torchscript'), EXPORTER])
@pytest.mark.parametrize('component', ['ResNet-18', 'StairNet'])
def test_onnx_runtime_computes_the_same(component, dynamo, tmp_path):
    """ResNet-18 is exported with one input size and run with another."""
    component, after, _ = COMPONENTS[component]
    net = with_cbam(component, after)
    net.init_weights()
    randomise(net)
    example, larger = torch.rand(1, 3, 64, 64), torch.rand(2, 3, 96, 64)
    axes = dict(dynamic_axes={'x': {0: 'n', 2: 'height', 3: 'width'}})
    if dynamo:
        auto = torch.export.Dim.AUTO
        axes = dict(dynamic_shapes=((auto, 3, auto, auto),))
    inputs = (larger,)
    if component['type'] == 'StairNet':
        example = inputs = (torch.rand(1, 8, 38, 38), torch.rand(1, 16, 19, 19))
        net, axes = TwoInputs(net).eval(), {}
    torch.onnx.export(
        net,
        (example,) if isinstance(example, torch.Tensor) else example,
        tmp_path / 'net.onnx',
        dynamo=dynamo,
        verbose=False,
        input_names=['x', 'y'][: len(inputs)],
        **axes,
    )
    session = onnxruntime.InferenceSession(tmp_path / 'net.onnx')
    names = [entry.name for entry in session.get_inputs()]
    arrays = dict(zip(names, (value.numpy() for value in inputs), strict=True))
    for array, level in zip(session.run(None, arrays), net(*inputs), strict=True):
        torch.testing.assert_close(torch.from_numpy(array), level, rtol=1e-4, atol=1e-5)


class TwoInputs(nn.Module):
    """A neck whose two levels are separate arguments."""

    def __init__(self, neck: nn.Module) -> None:
        super().__init__()
        self.neck = neck

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.neck((x, y))


def test_moving_average_runs_its_own_plugins_at_their_averaged_weights():
    net = randomise(with_cbam(R18, BLOCKS))
    average = ExponentialMovingAverage(net, momentum=0.25)
    average.update_parameters(net)
    gate = net.inserted['layer4/1/bn2'].cbam.spatial_gate.norm
    before, x = gate.bias.item(), torch.randn(1, 3, 64, 64)
    first_output = average.module(x)[-1].clone()
    nn.init.constant_(gate.bias, before + 4)
    assert torch.equal(average.module(x)[-1], first_output)
    average.update_parameters(net)
    averaged = average.module.inserted['layer4/1/bn2'].cbam.spatial_gate.norm
    assert averaged.bias.item() == pytest.approx(before + 1)
    assert not torch.equal(average.module(x)[-1], first_output)


def test_distributed_wrapper_has_every_gradient_of_the_unwrapped_component(tmp_path):
    net = randomise(with_cbam(dict(R18, out_indices=(3,)), BLOCKS))
    copied, x = copy.deepcopy(net), torch.randn(2, 3, 64, 64)
    net(x)[-1].sum().backward()
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/meet', rank=0, world_size=1
    )
    try:
        wrapped = nn.parallel.DistributedDataParallel(copied)  # unused parameters are an error
        for _ in range(2):
            wrapped.zero_grad()
            wrapped(x)[-1].sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    pairs = zip(net.named_parameters(), copied.parameters(), strict=True)
    for (name, parameter), in_wrapper in pairs:
        torch.testing.assert_close(in_wrapper.grad, parameter.grad, msg=name)


def test_copy_runs_its_own_plugins():
    net = randomise(with_cbam(R18, BLOCKS))
    copied, x = copy.deepcopy(net), torch.randn(1, 3, 64, 64)
    before = net(x)[-1]
    for parameter in copied.inserted.parameters():
        nn.init.constant_(parameter, 0.3)
    assert torch.equal(net(x)[-1], before)
    assert not torch.equal(copied(x)[-1], before)


def test_conversion_of_norms_does_not_lose_the_plugins():
    """MMEngine and torch replace the norms by new modules without their hooks."""
    net = randomise(with_cbam(R18, BLOCKS))
    x = torch.randn(1, 3, 64, 64)
    target = net(x)[-1]
    reverted = revert_sync_batchnorm(nn.SyncBatchNorm.convert_sync_batchnorm(net))
    reverted.eval()
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in reverted.modules())
    torch.testing.assert_close(reverted(x)[-1], target)


@pytest.mark.parametrize(
    ('replace', 'called'),
    [
        (lambda net: setattr(net.layer1[0], 'bn2', nn.BatchNorm2d(8).eval()), 'layer1'),
        (lambda net: setattr(net.layer1[0], 'bn2', nn.BatchNorm2d(8).eval()), 'layer1.0'),
        (lambda net: revert_sync_batchnorm(nn.SyncBatchNorm.convert_sync_batchnorm(net)), 'layer1'),
        (lambda net: setattr(net.layer1, '0', copy.deepcopy(net.layer1[0])), ''),
    ],
    ids=['a norm, stage', 'a norm, block', 'all norms, stage', 'a copied block, component'],
)
def test_the_attention_runs_once_after_a_replaced_module(replace, called):
    """Some components are never called themselves, only parts of them: mmdet's StandardRoIHead."""
    net = randomise(with_cbam(R18, 'layer1.0.bn2'))
    replace(net)
    calls = []
    net.inserted['layer1/0/bn2'].cbam.register_forward_hook(lambda *args: calls.append(1))
    net.get_submodule(called)(torch.randn(1, 8 if called else 3, 32, 32))
    assert calls == [1]


def test_autocast_runs():
    net = with_cbam(R18, BLOCKS)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.isfinite(net(torch.randn(1, 3, 64, 64))[-1]).all()
