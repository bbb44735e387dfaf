"""CBAM against an independent NumPy module, and its counts, gradients, types and options."""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pytest
import torch
from mmcv.cnn import build_plugin_layer
from mmengine.registry import MODELS, DefaultScope, Registry
from torch import nn

from cbam_det import CBAM
from cbam_det.models.layers import ORDERS, POOLS
from cbam_det.models.layers.pooling import pool

pytestmark = pytest.mark.usefixtures('one_thread')
PARAMETERS = {18: 11_779_392, 34: 21_960_468, 50: 28_089_624, 101: 49_330_172}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


NUMPY_POOLS = {
    'avg': lambda x, axes: x.mean(axes),
    'max': lambda x, axes: x.max(axes),
    'lp': lambda x, axes: np.sqrt((x**2).sum(axes)),
    'lse': lambda x, axes: np.log(np.exp(x).sum(axes)),
}


def numpy_channel_gate(x, weights, pools):
    """Equation 2: sigmoid of the sum of the shared MLP over the pooled vectors."""
    logits = 0
    for kind in pools:
        hidden = NUMPY_POOLS[kind](x, (2, 3)) @ weights['channel_gate.fc1.weight'].T
        hidden = np.maximum(hidden + weights.get('channel_gate.fc1.bias', 0), 0)
        logits = logits + hidden @ weights['channel_gate.fc2.weight'].T
        logits = logits + weights.get('channel_gate.fc2.bias', 0)
    return sigmoid(logits)[:, :, None, None]


def numpy_spatial_gate(x, weights, pools, training):
    """Equation 3: sigmoid of the normalised convolution over the maps pooled along channels."""
    if pools == 'conv':
        mixed = np.tensordot(weights['spatial_gate.summary.weight'][0, :, 0, 0], x, (0, 1))
        maps = (mixed + weights['spatial_gate.summary.bias'][0])[:, None]
    else:
        maps = np.stack([NUMPY_POOLS[kind](x, 1) for kind in pools], 1)
    kernel = weights['spatial_gate.conv.weight'][0]
    size = kernel.shape[-1]
    height, width = maps.shape[2:]
    padded = np.pad(maps, ((0, 0), (0, 0), (size // 2,) * 2, (size // 2,) * 2))
    logits = np.zeros((len(x), height, width))
    for row, column in itertools.product(range(height), range(width)):
        window = padded[:, :, row : row + size, column : column + size]
        logits[:, row, column] = (window * kernel).sum((1, 2, 3))
    logits += weights.get('spatial_gate.conv.bias', np.zeros(1))[0]
    if 'spatial_gate.norm.weight' in weights:
        mean = logits.mean() if training else weights['spatial_gate.norm.running_mean'][0]
        var = logits.var() if training else weights['spatial_gate.norm.running_var'][0]
        logits = (logits - mean) / np.sqrt(var + 1e-5)
        scale, shift = weights['spatial_gate.norm.weight'], weights['spatial_gate.norm.bias']
        logits = logits * scale[0] + shift[0]
    return sigmoid(logits)[:, None]


def numpy_cbam(x, weights, order, pools, spatial_pools, training):
    def channel(x):
        return numpy_channel_gate(x, weights, pools)

    def spatial(x):
        return numpy_spatial_gate(x, weights, spatial_pools, training)

    if order == 'parallel':
        return x * channel(x) * spatial(x)
    for name in order.split('-'):
        x = x * {'channel': channel, 'spatial': spatial}[name](x)
    return x


def randomised(**options) -> CBAM:
    """A float64 module in which no parameter or statistic keeps a value that hides a fault."""
    module = CBAM(**{'in_channels': 8, 'ratio': 2, 'start': 'paper', **options}).double()
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.2, 1.0)
            tensor.data -= 0.5 * (tensor.dim() > 1)
    return module


def expected(module: CBAM, x: torch.Tensor, **options) -> np.ndarray:
    weights = {key: value.numpy() for key, value in module.state_dict().items()}
    chosen = {
        'order': 'channel-spatial',
        'pools': ('avg', 'max'),
        'spatial_pools': ('max', 'avg'),
        **{key: options[key] for key in ('order', 'pools', 'spatial_pools') if key in options},
    }
    return numpy_cbam(x.numpy(), weights, **chosen, training=module.training)


SUBSETS = [subset for size in range(1, 5) for subset in itertools.combinations(POOLS, size)] + [
    ('max', 'avg')
]
OPTIONS = [
    *[dict(order=order) for order in ORDERS],
    *[dict(order=order, spatial_pools='conv', kernel_size=3) for order in ORDERS],
    *[dict(pools=pools) for pools in SUBSETS],
    *[dict(spatial_pools=pools) for pools in SUBSETS],
    *[dict(kernel_size=size) for size in (1, 3, 5, 11)],
    *[dict(ratio=ratio) for ratio in (1, 3, 8)],
    dict(mlp_bias=False),
    dict(conv_bias=True),
    dict(norm_cfg=None),
    dict(norm_cfg=None, conv_bias=True, mlp_bias=False, spatial_pools=('avg', 'max')),
]


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_module_equals_the_papers_equations_in_numpy(options, training):
    module = randomised(**options).train(training)
    x = torch.randn(3, 8, 5, 6, dtype=torch.float64)
    target = expected(module, x, **options)
    np.testing.assert_allclose(module(x).detach().numpy(), target, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize('order', ORDERS)
def test_output_is_the_input_times_the_gates(order):
    module = randomised(order=order).eval()
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    gates = module.gates(x)
    assert list(gates) == ({'parallel': ['channel', 'spatial']}.get(order) or order.split('-'))
    product = x
    for name, gate in gates.items():
        assert gate.shape == ((2, 8, 1, 1) if name == 'channel' else (2, 1, 4, 4))
        assert ((gate > 0) & (gate < 1)).all()
        product = product * gate
    assert torch.equal(module(x), product)


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_gradients_equal_finite_differences_in_float64(options):
    module = randomised(**{**options, 'act_cfg': dict(type='Tanh')})
    x = torch.randn(2, 8, 2, 3, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*module.named_parameters(), strict=True)
    state = {key: value.clone() for key, value in module.named_buffers()}

    def function(x, *values):
        call = (dict(zip(names, values, strict=True)) | state,)
        return torch.func.functional_call(module, call, (x,))

    assert torch.autograd.gradcheck(function, (x, *parameters))


def test_gradient_of_tied_maxima_is_shared_equally():
    x = torch.ones(1, 1, 1, 4, requires_grad=True)
    pool(x, 'max', (2, 3)).sum().backward()
    assert x.grad.flatten().tolist() == [0.25] * 4


def test_lp_pool_of_an_empty_map_has_a_finite_gradient():
    x = torch.zeros(1, 8, 2, 2, dtype=torch.float64, requires_grad=True)
    randomised(pools=('lp',), spatial_pools=('lp',))(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def classifier_parameters(depth: int) -> int:
    """ResNet with CBAM in each block and a 1000-class layer."""
    basic = depth < 50
    place = dict(after='layer*.*.bn2') if basic else dict(position='after_conv3')
    plugins = [dict(cfg=dict(type='CBAM'), **place)]
    with DefaultScope.overwrite_default_scope('mmdet'):
        net = MODELS.build(
            dict(type='WithPlugins', base_type='mmdet.ResNet', depth=depth, plugins=plugins)
        )
    total = sum(parameter.numel() for parameter in net.parameters())
    return total + 1000 * (net.feat_dim + 1)


@pytest.mark.parametrize(('depth', 'count'), PARAMETERS.items())
def test_classifier_has_exactly_the_published_parameters(depth, count):
    assert classifier_parameters(depth) == count


def test_squeeze_and_excitation_has_the_paper_s_parameters():
    module = CBAM(256, pools=('avg',), order='channel')
    assert sum(parameter.numel() for parameter in module.parameters()) == 2 * 256 * 16 + 256 + 16


@pytest.mark.parametrize('scope', ['mmengine', 'mmdet', 'mmseg', 'mmyolo', 'mmrotate'])
@pytest.mark.parametrize('name', ['CBAM', 'CBAMDet'])
def test_plugin_builder_finds_the_module_in_every_scope(scope, name):
    made = scope not in ('mmengine', *MODELS.children)
    registry = Registry('model', scope=scope, parent=MODELS) if made else None
    registry = registry or MODELS.children.get(scope, MODELS)
    try:
        assert registry.get(name) is CBAM
        attribute, module = build_plugin_layer(dict(type=name), '_x', in_channels=32)
        assert (attribute, type(module)) == ('cbam_x', CBAM)
    finally:
        if made:
            del MODELS.children[scope]


def test_the_unambiguous_name_wins_where_a_scope_has_its_own_cbam():
    other = Registry('model', scope='has_own_cbam', parent=MODELS)
    try:
        other.register_module(name='CBAM', module=nn.Identity)
        assert other.get('CBAM') is nn.Identity
        assert other.get('CBAMDet') is CBAM
        assert other.get('mmengine.CBAM') is CBAM
    finally:
        del MODELS.children['has_own_cbam']


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(ratio=512), 'ratio=512 leaves no hidden channel of 256; use ratio <= 256'),
        (dict(ratio=0), 'ratio=0 is not valid'),
        (dict(ratio=2.5), 'ratio=2.5 is not valid'),
        (dict(in_channels=0), 'in_channels=0 is not valid'),
        (dict(kernel_size=4), 'kernel_size=4 is even; use 5'),
        (dict(kernel_size=-1), 'kernel_size=-1 is not valid'),
        (dict(pools=()), r'pools=\(\) is not valid; give one or more of avg, max, lp, lse'),
        (dict(pools=('avg', 'avg')), 'each once'),
        (dict(pools=('mean',)), 'mean'),
        (dict(spatial_pools=('conv', 'max')), 'spatial_pools'),
        (dict(order='space'), "order='space' is unknown; choose from channel-spatial"),
    ],
    ids=str,
)
def test_unfit_option_names_value_and_remedy(options, words):
    with pytest.raises(ValueError, match=words):
        CBAM(**{'in_channels': 256, **options})


def test_misspelt_option_is_an_error():
    with pytest.raises(TypeError, match='reduction'):
        build_plugin_layer(dict(type='CBAM', reduction=8), '', in_channels=64)


def test_option_of_an_absent_gate_has_no_say():
    assert CBAM(8, order='spatial').channel_gate is None  # ratio 16 would not fit 8 channels


def test_hidden_width_reaches_one_and_not_zero():
    assert CBAM(16, ratio=16).channel_gate.fc1.out_features == 1
    assert CBAM(31, ratio=16).channel_gate.fc1.out_features == 1


@pytest.mark.parametrize('shape', [(0, 8, 4, 4), (1, 8, 1, 1), (2, 8, 1, 1), (1, 8, 1, 7)])
@pytest.mark.parametrize('order', ORDERS)
def test_any_batch_and_map_size_trains(shape, order):
    module = CBAM(8, ratio=2, order=order)
    x = torch.randn(shape, requires_grad=True)
    y = module(x)
    y.sum().backward()
    assert y.shape == shape
    assert x.grad.shape == shape


def test_layouts_and_views_give_the_same_output():
    module = randomised().eval()
    x = torch.randn(2, 8, 6, 5, dtype=torch.float64)
    target = module(x)
    last = module(x.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    view = x.transpose(2, 3).contiguous().transpose(2, 3)
    strided = torch.stack([x, x], -1)[..., 0]
    for other in (last, module(view), module(strided)):
        torch.testing.assert_close(other, target, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('order', ORDERS)
def test_autocast_keeps_the_input_type_and_is_near_float32(dtype, order):
    module = CBAM(16, ratio=4, order=order, pools=POOLS)
    x = torch.randn(2, 16, 9, 9).to(dtype)
    target = module.eval()(x.float())
    with torch.autocast('cpu', dtype=dtype):
        y = module(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), target, rtol=0.03, atol=0.03)


def test_half_precision_pooling_sums_in_float32():
    x = torch.ones(1, 1, 300, 300, dtype=torch.float16)
    assert pool(x, 'avg', (2, 3)).item() == 1.0  # 90,000 ones overflow a float16 sum
    assert pool(x, 'lp', (2, 3)).item() == 300.0
    assert pool(x, 'avg', (2, 3)).dtype == torch.float32


def test_half_precision_weights_work_without_autocast():
    module = CBAM(16, ratio=4).to(torch.bfloat16)
    assert module(torch.randn(2, 16, 5, 5, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_paper_s_start_is_the_authors_and_a_host_does_not_overwrite_it():
    """ResNet's Constant init sets every norm's weight to 1; the gate's has to stay at 0."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        plugins = [dict(cfg=dict(type='CBAM', start='paper'), position='after_conv3')]
        net = MODELS.build(dict(type='mmdet.ResNet', depth=50, base_channels=16, plugins=plugins))
        net.init_weights()
    assert net.layer1[0].bn1.weight.eq(1).all()
    cbam = net.layer1[0].cbam
    assert cbam.spatial_gate.norm.weight.item() == 0
    assert cbam.channel_gate.fc1.bias.eq(0).all()
    assert cbam.gates(torch.randn(1, 64, 3, 3))['spatial'].unique().tolist() == [0.5]


def test_init_cfg_is_honoured_over_the_authors_start():
    module = CBAM(8, 2, init_cfg=dict(type='Constant', layer='Linear', val=0.25, bias=0.5))
    module.init_weights()
    assert module.channel_gate.fc1.weight.unique().tolist() == [0.25]
    assert module.channel_gate.fc2.bias.unique().tolist() == [0.5]
    assert module.spatial_gate.norm.weight.item() == 0


def test_other_norm_and_activation_are_built():
    norm_cfg = dict(type='GN', num_groups=1)
    module = CBAM(8, 2, norm_cfg=norm_cfg, act_cfg=dict(type='GELU'))
    assert isinstance(module.spatial_gate.norm, nn.GroupNorm)
    assert isinstance(module.channel_gate.act, nn.GELU)
    assert module(torch.randn(1, 8, 4, 4)).shape == (1, 8, 4, 4)


def test_copy_and_pickle_keep_the_function():
    module = randomised().eval()
    x = torch.randn(1, 8, 3, 3, dtype=torch.float64)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x), module(x))


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


@pytest.mark.parametrize(('ours', 'other'), [('paper', 'identity'), ('identity', 'paper')])
def test_weights_of_one_form_do_not_load_silently_into_the_other(ours, other):
    with pytest.raises(RuntimeError, match=r'channel_gate\.gain'):
        CBAM(16, start=ours).load_state_dict(CBAM(16, start=other).state_dict())


@pytest.mark.parametrize(
    ('norm_eval', 'frozen', 'moves'),
    [(False, False, True), (True, False, False), (False, True, False)],
)
def test_own_option_decides_on_the_norm_s_statistics_and_not_the_host(norm_eval, frozen, moves):
    module = CBAM(8, 4, norm_eval=norm_eval, frozen=frozen).train()
    module.spatial_gate.norm.eval()  # what a host with norm_eval=True does
    module(torch.randn(2, 8, 6, 6))
    assert (module.spatial_gate.norm.running_mean.item() != 0) == moves
    assert all(value.requires_grad != frozen for value in module.parameters())
    module.eval()
    before = module.spatial_gate.norm.running_mean.item()
    module(torch.randn(2, 8, 6, 6))
    assert module.spatial_gate.norm.running_mean.item() == before


def test_frozen_is_true_or_false():
    with pytest.raises(ValueError, match="frozen='yes' is not valid; give True or False"):
        CBAM(16, frozen='yes')


def test_unknown_start_names_the_known_ones():
    with pytest.raises(ValueError, match="start='zero' is unknown; choose from identity, paper"):
        CBAM(16, start='zero')


def test_identity_start_refuses_a_norm_without_a_weight():
    """It would blow a first step of any size up to unit variance."""
    with pytest.raises(ValueError, match='give it affine=True, or norm_cfg=None'):
        CBAM(16, start='identity', norm_cfg=dict(type='BN', affine=False))
