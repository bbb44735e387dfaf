"""Hosts with plugins are copied, exported, averaged and converted, and compute the same."""

from __future__ import annotations

import copy
import pickle

import onnxruntime
import pytest
import torch
from mmengine.model import ExponentialMovingAverage, revert_sync_batchnorm
from mmengine.utils import digit_version
from torch import nn

from .hosts import BLOCKS, HOSTS, R18, randomise, with_cbam

pytestmark = pytest.mark.usefixtures('mmdet_scope')


def test_checkpointed_blocks_have_the_same_gradients():
    plain = randomise(with_cbam(R18, BLOCKS))
    other = randomise(with_cbam(dict(R18, with_cp=True), BLOCKS))
    other.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 64, 64)
    for net in (plain, other):
        net(x.clone().requires_grad_())[-1].sum().backward()
    for (name, ours), theirs in zip(plain.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


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
        target, found = net(x), change(net)(x)
    assert torch.allclose(found[-1], target[-1], atol=1e-6)


EXPORTER = pytest.param(
    True,
    id='dynamo',
    marks=pytest.mark.skipif(
        digit_version(torch.__version__) < digit_version('2.6.0'),
        reason="this torch's own exporter fails at a BatchNorm that is evaluated",
    ),
)


@pytest.mark.parametrize('dynamo', [pytest.param(False, id='torchscript'), EXPORTER])
@pytest.mark.parametrize('host', ['ResNet-18', 'StairNet'])
def test_onnx_runtime_computes_the_same(host, dynamo, tmp_path):
    """Exported at one size; ResNet-18 is run at another one."""
    host, after, _ = HOSTS[host]
    net = with_cbam(host, after)
    net.init_weights()
    randomise(net)
    example, other = torch.rand(1, 3, 64, 64), torch.rand(2, 3, 96, 64)
    axes = dict(dynamic_axes={'x': {0: 'n', 2: 'height', 3: 'width'}})
    if dynamo:
        auto = torch.export.Dim.AUTO
        axes = dict(dynamic_shapes=((auto, 3, auto, auto),))
    inputs = (other,)
    if host['type'] == 'StairNet':
        example = inputs = (torch.rand(1, 8, 38, 38), torch.rand(1, 16, 19, 19))
        net, axes = Flat(net).eval(), {}
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
    names = [one.name for one in session.get_inputs()]
    found = session.run(None, dict(zip(names, (value.numpy() for value in inputs), strict=True)))
    for theirs, ours in zip(found, net(*inputs), strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=1e-4, atol=1e-5)


class Flat(nn.Module):
    """A neck as a function of its levels."""

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
    kept = average.module(x)[-1].clone()
    nn.init.constant_(gate.bias, before + 4)
    assert torch.equal(average.module(x)[-1], kept)
    average.update_parameters(net)
    averaged = average.module.inserted['layer4/1/bn2'].cbam.spatial_gate.norm
    assert averaged.bias.item() == pytest.approx(before + 1)
    assert not torch.equal(average.module(x)[-1], kept)


def test_distributed_wrapper_has_every_gradient_of_the_plain_host(tmp_path):
    net = randomise(with_cbam(dict(R18, out_indices=(3,)), BLOCKS))
    other, x = copy.deepcopy(net), torch.randn(2, 3, 64, 64)
    net(x)[-1].sum().backward()
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/meet', rank=0, world_size=1
    )
    try:
        wrapped = nn.parallel.DistributedDataParallel(other)  # finds unused ones: an error
        for _ in range(2):
            wrapped.zero_grad()
            wrapped(x)[-1].sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    for (name, ours), theirs in zip(net.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


def test_copy_runs_its_own_plugins():
    net = randomise(with_cbam(R18, BLOCKS))
    other, x = copy.deepcopy(net), torch.randn(1, 3, 64, 64)
    before = net(x)[-1]
    for parameter in other.inserted.parameters():
        nn.init.constant_(parameter, 0.3)
    assert torch.equal(net(x)[-1], before)
    assert not torch.equal(other(x)[-1], before)


def test_conversion_of_norms_does_not_lose_the_plugins():
    """MMEngine and torch put new modules in the place of norms, without their hooks."""
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
    ids=['a norm, stage', 'a norm, block', 'all norms, stage', 'a copied block, host'],
)
def test_the_host_s_attention_runs_once_after_a_replaced_module(replace, called):
    """Some hosts are never called themselves, mmdet's StandardRoIHead say; parts of them are."""
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
