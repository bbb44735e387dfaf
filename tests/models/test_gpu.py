"""The module on a GPU. `python -m benchmarks.gpu` runs this file alone, where there is no mmdet."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from cbam_det.models.layers import CBAM, ORDERS
from cbam_det.models.layers.norm_input import find_norm_input

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU')
FORMATS = [torch.contiguous_format, torch.channels_last]
# The relative error that the type of the map allows.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def randomised(**options: object) -> CBAM:
    torch.manual_seed(0)
    module = CBAM(64, 4, **options)
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0, 0.2)
    return module


def results(module: CBAM, x: torch.Tensor, g: torch.Tensor) -> list[torch.Tensor]:
    """The output, and the gradients by the input and by all parameters together, in float64."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    is_half = x.dtype in (torch.bfloat16, torch.float16)
    with torch.autocast(x.device.type, x.dtype if is_half else None, enabled=is_half):
        y = module(x)
    of_x, *others = torch.autograd.grad(y, (x, *module.parameters()), g.to(y.dtype))
    of_parameters = torch.cat([tensor.flatten().double() for tensor in others])
    return [tensor.detach().double().cpu() for tensor in (y, of_x, of_parameters)]


@pytest.mark.parametrize('order', ORDERS)
@pytest.mark.parametrize('layout', FORMATS, ids=str)
@pytest.mark.parametrize('dtype', TOLERANCES, ids=str)
@pytest.mark.parametrize('efficient', [True, False])
def test_output_and_gradients_are_those_of_float64_on_a_cpu(efficient, dtype, layout, order):
    exact = randomised(order=order, memory_efficient=False).double()
    # Without ties in float32; in a half type the gradient of tied maxima is not unique.
    x = torch.randperm(2 * 64 * 9 * 11).view(2, 64, 9, 11).double()
    x = (x / x.numel() * 4 - 2).to(dtype)
    g = torch.randn(2, 64, 9, 11).to(dtype)
    expected = results(exact, x.double(), g.double())
    module = copy.deepcopy(exact).float().cuda()
    module.memory_efficient = efficient
    actual = results(module, *(t.cuda().to(memory_format=layout) for t in (x, g)))
    names = ['output', 'input'] if dtype == torch.float32 else ['output']
    for name, value, target in zip(names, actual, expected, strict=False):
        assert (value - target).norm() <= TOLERANCES[dtype] * target.norm(), name
    if dtype == torch.float32:
        assert (actual[2] - expected[2]).norm() <= 1e-3 * expected[2].norm()


@pytest.mark.parametrize('dtype', TOLERANCES, ids=str)
def test_map_of_a_fixed_norm_is_computed_again_to_the_bit(dtype):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(64).cuda().eval()
    for value in (*norm.parameters(), norm.running_mean, norm.running_var):
        value.data.uniform_(0.5, 1.5)
    x = torch.randn(2, 64, 9, 11, device='cuda', dtype=dtype, requires_grad=True)
    y = norm(x)
    source = find_norm_input(norm, (x,), y)
    assert source is not None
    assert torch.equal(source.norm_output(*source.tensors), y)


def test_training_keeps_the_input_and_small_maps_alone():
    x = torch.randn(2, 64, 200, 200, device='cuda', requires_grad=True)
    module = CBAM(64, memory_efficient=True).cuda()
    module(x).sum().backward()  # so that cuDNN's memory is not counted
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    y = module(x)
    kept = torch.cuda.memory_allocated() - before
    size = x.numel() * x.element_size()
    assert size <= kept < 1.1 * size
    assert y.shape == x.shape


def test_compiled_module_has_the_numbers_of_the_eager_one():
    module = randomised().cuda()
    compiled = copy.deepcopy(module)
    compiled.compile(dynamic=True)
    x, g = torch.randn(2, 2, 64, 12, 14, device='cuda')
    for value, target in zip(results(compiled, x, g), results(module, x, g), strict=True):
        assert (value - target).norm() <= 1e-4 * target.norm()
