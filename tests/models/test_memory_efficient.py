"""The memory-efficient pass against autograd on the plain equations."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from cbam_det import CBAM
from cbam_det.models.layers import ORDERS
from cbam_det.models.layers import memory_efficient as efficient
from cbam_det.models.layers.cpu import max_and_index

from .cbam_options import OPTIONS, randomised
from .gradients import LAYOUTS, assert_same, output_and_gradients, plain

pytestmark = pytest.mark.usefixtures('one_thread')
# Several images per block, one image per block, a part of an image per block.
BLOCKS = [2**23, 2**11, 1000]


@pytest.mark.parametrize('block', BLOCKS)
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_float64_output_and_gradients_equal_autograd_s(options, layout, block, monkeypatch):
    monkeypatch.setitem(efficient.BLOCK, 'cpu', block)
    module = randomised(**options)
    x, g = torch.randn(2, 3, 8, 9, 7, dtype=torch.float64)
    x = x.to(memory_format=LAYOUTS[layout])
    actual = output_and_gradients(module, x, g)
    assert_same(actual, output_and_gradients(plain(module), x, g), 1e-12)
    assert actual[0].is_contiguous(memory_format=LAYOUTS[layout])


@pytest.mark.parametrize('order', ORDERS)
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('shape', [(2, 67, 41, 39), (1, 256, 9, 31), (2, 70, 1, 600)], ids=str)
def test_large_maps_equal_autograd_s_in_float32_and_float64(shape, layout, order, monkeypatch):
    monkeypatch.setitem(efficient.BLOCK, 'cpu', 2**18)
    torch.manual_seed(1)  # no two maxima are equal in float32
    module = randomised(in_channels=shape[1], order=order)
    for parameter in module.parameters():  # small enough that no gate saturates
        nn.init.normal_(parameter, 0, 0.3 * parameter.shape[-1] ** -0.5)
    x, g = torch.randn(2, *shape).double()
    x = x.to(memory_format=LAYOUTS[layout])
    expected = output_and_gradients(plain(module), x, g)
    assert_same(output_and_gradients(module, x, g), expected, 1e-12)
    actual = output_and_gradients(module.float(), x.float(), g.float())
    actual = [tensor.double() for tensor in actual]
    assert_same(actual[:2], expected[:2], 1e-6)
    # The gradients of the parameters are sums of thousands of terms that cancel; autograd's have
    # the same error.
    assert_same(actual, expected, 1e-5)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('axis', [1, 2])
@pytest.mark.parametrize('shape', [(2, 300, 333), (1, 64, 2048), (3, 33, 1001), (1, 2048, 63)])
def test_maximum_and_its_index_are_torch_s(shape, axis, layout):
    y = torch.randn(shape)
    if layout == 'channels_last':
        y = y.mT.contiguous().mT
    value, index = max_and_index(y, axis)
    expected_value, expected_index = y.max(axis)
    assert torch.equal(value, expected_value)
    assert torch.equal(index, expected_index)


def test_of_tied_maxima_one_gets_the_whole_gradient():
    x = torch.ones(1, 4, 300, 300, requires_grad=True)
    g = torch.zeros_like(x)
    module = CBAM(4, 1, pools='max', order='channel')
    nn.init.ones_(module.channel_gate.fc1.weight)
    nn.init.ones_(module.channel_gate.fc2.weight)
    module(x).backward(g + 1)
    through_gate = x.grad - module.gates(x)['channel']
    assert (through_gate.abs() > 1e-6).sum(dim=(2, 3)).tolist() == [[1, 1, 1, 1]]


@pytest.mark.parametrize('frozen', [True, False], ids=['frozen', 'no_grad'])
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_inference_equals_the_equations_and_leaves_the_input(options, layout, frozen):
    module = randomised(**options).eval().requires_grad_(not frozen)
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64).to(memory_format=LAYOUTS[layout])
    before, expected = x.clone(), plain(module)(x).detach()
    with torch.set_grad_enabled(frozen):
        output = module(x)
    assert not output.requires_grad and output.is_contiguous(memory_format=LAYOUTS[layout])
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-13)
    assert torch.equal(x, before)


@pytest.mark.parametrize('order', ORDERS)
def test_gradients_reach_the_parameters_of_a_map_without_gradient(order):
    """As in the first block after frozen stages."""
    module = randomised(order=order)
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    plain_copy = plain(module)
    expected = torch.autograd.grad(plain_copy(x).sum(), list(plain_copy.parameters()))
    actual = torch.autograd.grad(module(x).sum(), list(module.parameters()))
    assert_same(list(actual), list(expected), 1e-12)


@pytest.mark.parametrize('order', ORDERS)
def test_frozen_module_passes_the_gradient_on(order):
    module = randomised(order=order).requires_grad_(False)
    x, g = torch.randn(2, 2, 8, 5, 6, dtype=torch.float64)
    expected = output_and_gradients(plain(module), x, g)
    assert_same(output_and_gradients(module, x, g), expected, 1e-12)


def test_backward_can_be_called_twice_and_in_parts():
    module = randomised()
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64, requires_grad=True)
    y = module(x)
    first = torch.autograd.grad(y.sum(), (x, *module.parameters()), retain_graph=True)
    second = torch.autograd.grad(y.sum(), (x, *module.parameters()))
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize('order', ORDERS)
def test_autocast_leaves_the_gates_in_float32_and_the_map_in_its_type(order):
    module = CBAM(16, 4, order=order)
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    x, g = torch.randn(2, 2, 16, 9, 9).bfloat16()
    with torch.autocast('cpu', torch.bfloat16):
        actual = output_and_gradients(module, x, g)
    expected = output_and_gradients(copy.deepcopy(module).double(), x.double(), g.double())
    assert [tensor.dtype for tensor in actual[:3]] == [
        torch.bfloat16,
        torch.bfloat16,
        torch.float32,
    ]
    assert_same([actual[0].double()], expected[:1], 4e-3)  # the precision of bfloat16
    assert_same(
        [torch.cat([tensor.double().flatten() for tensor in actual[2:]])],
        [torch.cat([tensor.flatten() for tensor in expected[2:]])],
        0.02,
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('order', ORDERS)
def test_gpu_equals_the_cpu_without_waiting_for_it(order):
    module = CBAM(64, order=order)
    x, g = torch.randn(2, 2, 64, 40, 40)
    expected = output_and_gradients(module, x, g)
    module.cuda()
    x, g = x.cuda(), g.cuda()
    torch.cuda.set_sync_debug_mode('error')
    try:
        actual = output_and_gradients(module, x, g)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert_same([tensor.cpu() for tensor in actual], expected, 1e-4)


@pytest.mark.parametrize(
    ('option', 'of_small', 'of_large'),
    [(None, False, True), (True, True, True), (False, False, False)],
)
def test_small_maps_train_by_autograd_unless_the_option_forces_the_pass(
    option, of_small, of_large, monkeypatch
):
    monkeypatch.setattr(efficient, 'SMALL', 2 * 8 * 6 * 6)
    module = randomised(memory_efficient=option)
    for side, expected in ((5, of_small), (6, of_large)):
        x, g = torch.randn(2, 2, 8, side, side, dtype=torch.float64)
        chosen = type(module(x).grad_fn).__name__
        assert (chosen == '_AttendBackward') == expected, chosen
        actual = output_and_gradients(module, x, g)
        assert_same(actual, output_and_gradients(plain(module), x, g), 1e-12)


def test_without_gradients_small_maps_need_one_output_too(monkeypatch):
    monkeypatch.setattr(efficient, 'SMALL', 2**30)
    module, calls = randomised(), []
    monkeypatch.setattr(efficient, '_attend_in_place', lambda *args: calls.append(args) or args[0])
    with torch.no_grad():
        module(torch.randn(2, 8, 5, 5, dtype=torch.float64))
    assert len(calls) == 1


def test_another_value_of_the_option_is_an_error():
    with pytest.raises(ValueError, match="memory_efficient='auto' is not valid; give True, False"):
        CBAM(16, memory_efficient='auto')
