"""CBAM against an independent NumPy implementation, and its counts, gradients and dtypes."""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from cbam_det import CBAM
from cbam_det.models.layers import ORDERS, POOLS
from cbam_det.models.layers.pooling import pool

from .cbam_options import OPTIONS, randomised

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


def expected(module: CBAM, x: torch.Tensor, **options) -> np.ndarray:
    weights = {key: value.numpy() for key, value in module.state_dict().items()}
    chosen = {
        'order': 'channel-spatial',
        'pools': ('avg', 'max'),
        'spatial_pools': ('max', 'avg'),
        **{key: options[key] for key in ('order', 'pools', 'spatial_pools') if key in options},
    }
    return numpy_cbam(x.numpy(), weights, **chosen, training=module.training)


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
    """The parameters of a ResNet with CBAM in each block and a layer for 1,000 classes."""
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
    for output in (last, module(view), module(strided)):
        torch.testing.assert_close(output, target, rtol=1e-12, atol=1e-13)


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


def test_copy_and_pickle_keep_the_function():
    module = randomised().eval()
    x = torch.randn(1, 8, 3, 3, dtype=torch.float64)
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(copied(x), module(x))
