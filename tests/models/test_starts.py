"""The identity start and the paper's start of CBAM."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from cbam_det import CBAM
from cbam_det.models.layers import ORDERS

from .cbam_options import randomised

pytestmark = pytest.mark.usefixtures('one_thread')


def test_paper_s_start_is_the_authors_and_a_backbone_does_not_overwrite_it():
    """ResNet's `init_cfg` sets the weights of all norms to 1, but the gate's must stay 0."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        plugins = [dict(cfg=dict(type='CBAM', start='paper'), position='after_conv3')]
        net = MODELS.build(dict(type='mmdet.ResNet', depth=50, base_channels=16, plugins=plugins))
        net.init_weights()
    assert net.layer1[0].bn1.weight.eq(1).all()
    cbam = net.layer1[0].cbam
    assert cbam.spatial_gate.norm.weight.item() == 0
    assert cbam.channel_gate.fc1.bias.eq(0).all()
    assert cbam.gates(torch.randn(1, 64, 3, 3))['spatial'].unique().tolist() == [0.5]


GATE_OPTIONS = [
    {},
    dict(pools=('lp', 'lse'), spatial_pools=('lse', 'lp')),
    dict(pools='avg', spatial_pools='conv'),
    dict(norm_cfg=None, conv_bias=True),
    dict(norm_cfg=dict(type='GN', num_groups=1), mlp_bias=False),
]


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('order', ORDERS)
@pytest.mark.parametrize('options', GATE_OPTIONS, ids=str)
def test_identity_start_returns_the_input_to_the_bit_and_trains_from_there(
    options, order, training
):
    module = CBAM(32, start='identity', order=order, **options).train(training)
    module.init_weights()
    x = torch.randn(2, 32, 7, 5) * 10
    assert torch.equal(module(x), x)
    module.train()
    before = copy.deepcopy(dict(module.named_parameters()))
    optim = torch.optim.SGD(module.parameters(), 1e-4)
    for _ in range(2):
        optim.zero_grad()
        (module(x) * torch.randn_like(x)).sum().backward()
        optim.step()
    for gate in module.gates(x).values():
        assert gate.min() >= 0 and gate.max() <= 2 and not torch.equal(gate, torch.ones_like(gate))
    moved = {
        name.split('.')[0]
        for name, value in module.named_parameters()
        if not torch.equal(value, before[name])
    }
    assert moved == {name for name, _ in module.named_children()}


@pytest.mark.parametrize('order', ORDERS)
def test_gates_of_the_identity_start_are_twice_those_of_the_paper_s_with_its_weights(order):
    paper, double = randomised(order=order).eval(), CBAM(8, 2, start='identity', order=order).eval()
    assert double.double().load_state_dict(paper.state_dict(), strict=False).unexpected_keys == []
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    if order in ('channel', 'spatial'):
        torch.testing.assert_close(double(x), 2 * paper(x))
    first = next(iter(paper.gates(x)))
    torch.testing.assert_close(double.gates(x)[first], 2 * paper.gates(x)[first])


@pytest.mark.parametrize(('target', 'source'), [('paper', 'identity'), ('identity', 'paper')])
def test_weights_of_one_start_do_not_load_silently_into_the_other(target, source):
    with pytest.raises(RuntimeError, match=r'channel_gate\.gain'):
        CBAM(16, start=target).load_state_dict(CBAM(16, start=source).state_dict())


@pytest.mark.parametrize('order', ORDERS)
@pytest.mark.parametrize('options', [*GATE_OPTIONS, dict(act_cfg=dict(type='PReLU'))], ids=str)
def test_reset_parameters_alone_sets_the_whole_start(options, order):
    """As after `to_empty` of a module built on the meta device."""
    module = CBAM(32, device='meta', order=order, **options).to_empty(device='cpu')
    for value in [*module.parameters(), *module.buffers()]:
        value.data.fill_(7)
    module.reset_parameters()
    fresh = CBAM(32, order=order, **options)
    for name, buffer in fresh.named_buffers():
        assert torch.equal(module.get_buffer(name), buffer), name
    x = torch.randn(2, 32, 7, 5) * 10
    assert torch.equal(module(x), x)
    assert torch.equal(module.eval()(x), x)


def test_unknown_start_is_an_error_that_lists_the_starts():
    with pytest.raises(ValueError, match="start='zero' is unknown; choose from identity, paper"):
        CBAM(16, start='zero')


def test_identity_start_refuses_a_norm_without_a_weight():
    """After a first step of any size it would scale the map to unit variance."""
    with pytest.raises(ValueError, match='give it affine=True, or norm_cfg=None'):
        CBAM(16, start='identity', norm_cfg=dict(type='BN', affine=False))
