"""The memory-efficient pass against autograd on the plain equations, and what they keep."""

from __future__ import annotations

import copy
import weakref
from functools import partial

import pytest
import torch
import torch.autograd.forward_ad as fwAD
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

from benchmarks import contenders as benchmark
from cbam_det import CBAM
from cbam_det.models.compat import allow_compilations
from cbam_det.models.layers import ORDERS
from cbam_det.models.layers import memory_efficient as efficient
from cbam_det.models.layers import pooling as functional
from cbam_det.models.layers.cpu import max_and_place
from cbam_det.models.layers.pooling import PART

from .cbam_options import OPTIONS, randomised

pytestmark = pytest.mark.usefixtures('one_thread')
LAYOUTS = {'contiguous': torch.contiguous_format, 'channels_last': torch.channels_last}
# Some images a block, one image a block, and blocks of a part of an image.
BLOCKS = [2**23, 2**11, 1000]


def plain(module: CBAM) -> CBAM:
    other = copy.deepcopy(module)
    other.memory_efficient = False
    return other


def output_and_gradients(module: CBAM, x: torch.Tensor, g: torch.Tensor) -> list[torch.Tensor]:
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = module(x)
    parameters = [one for one in module.parameters() if one.requires_grad]
    return [y.detach(), *torch.autograd.grad(y, (x, *parameters), g)]


def assert_same(found: list[torch.Tensor], wanted: list[torch.Tensor], tolerance: float) -> None:
    """In norm, the parameters' together: some are 0 but for rounding, a bias before a norm say."""
    assert [one.shape for one in found] == [one.shape for one in wanted]
    pairs = list(zip(found, wanted, strict=True))
    parts = [[one.flatten() for one in part] for part in zip(*pairs[2:], strict=True)]
    for one, other in [*pairs[:2], *([tuple(map(torch.cat, parts))] if parts else [])]:
        assert (one - other).norm() <= tolerance * other.norm()


@pytest.mark.parametrize('block', BLOCKS)
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_float64_output_and_gradients_equal_autograd_s(options, layout, block, monkeypatch):
    monkeypatch.setitem(efficient.BLOCK, 'cpu', block)
    module = randomised(**options)
    x, g = torch.randn(2, 3, 8, 9, 7, dtype=torch.float64)
    x = x.to(memory_format=LAYOUTS[layout])
    found = output_and_gradients(module, x, g)
    assert_same(found, output_and_gradients(plain(module), x, g), 1e-12)
    assert found[0].is_contiguous(memory_format=LAYOUTS[layout])


@pytest.mark.parametrize('order', ORDERS)
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('shape', [(2, 67, 41, 39), (1, 256, 9, 31), (2, 70, 1, 600)], ids=str)
def test_large_maps_equal_autograd_s_in_float32_and_float64(shape, layout, order, monkeypatch):
    monkeypatch.setitem(efficient.BLOCK, 'cpu', 2**18)
    torch.manual_seed(1)  # no two maxima that float32 could take for each other
    module = randomised(in_channels=shape[1], order=order)
    for parameter in module.parameters():  # of a size that saturates no gate of many channels
        nn.init.normal_(parameter, 0, 0.3 * parameter.shape[-1] ** -0.5)
    x, g = torch.randn(2, *shape).double()
    x = x.to(memory_format=LAYOUTS[layout])
    wanted = output_and_gradients(plain(module), x, g)
    assert_same(output_and_gradients(module, x, g), wanted, 1e-12)
    found = output_and_gradients(module.float(), x.float(), g.float())
    assert_same([one.double() for one in found[:2]], wanted[:2], 1e-6)
    # Each is a sum of thousands that cancel; autograd's differ by as much.
    assert_same([one.double() for one in found], wanted, 1e-5)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('axis', [1, 2])
@pytest.mark.parametrize('shape', [(2, 300, 333), (1, 64, 2048), (3, 33, 1001), (1, 2048, 63)])
def test_maximum_and_its_place_are_torch_s(shape, axis, layout):
    y = torch.randn(shape)
    if layout == 'channels_last':
        y = y.mT.contiguous().mT
    value, place = max_and_place(y, axis)
    wanted, where = y.max(axis)
    assert torch.equal(value, wanted)
    assert torch.equal(place, where)


def test_of_tied_maxima_one_gets_the_whole_gradient():
    x = torch.ones(1, 4, 300, 300, requires_grad=True)
    g = torch.zeros_like(x)
    module = CBAM(4, 1, pools='max', order='channel')
    nn.init.ones_(module.channel_gate.fc1.weight)
    nn.init.ones_(module.channel_gate.fc2.weight)
    module(x).backward(g + 1)
    through_gate = x.grad - module.gates(x)['channel']
    assert (through_gate.abs() > 1e-6).sum(dim=(2, 3)).tolist() == [[1, 1, 1, 1]]


def test_training_keeps_the_input_and_small_maps_alone():
    """The equations keep the map between the gates too."""
    x = torch.randn(2, 256, 72, 72, requires_grad=True)
    size = x.numel() * 4 / benchmark.MIB
    for module, kept in ((CBAM(256), 0), (CBAM(256, memory_efficient=False), 1)):
        step = benchmark._training(module, x, torch.ones_like(x))
        left, peak = benchmark.memory(step, 'cpu')
        assert left / size - 1 == pytest.approx(kept, abs=0.04)
        assert peak > left


@pytest.mark.parametrize('pools', ['lp', 'lse', 'conv'])
def test_other_pools_keep_the_input_alone_too(pools):
    x = torch.randn(2, 64, 72, 72, requires_grad=True)
    step = benchmark._training(CBAM(64, spatial_pools=pools), x, torch.ones_like(x))
    left, _ = benchmark.memory(step, 'cpu')
    assert left - x.numel() * 4 / benchmark.MIB < 0.3


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_inference_takes_one_output(dtype, layout):
    x = torch.randn(2, 256, 100, 100).to(getattr(torch, dtype), memory_format=LAYOUTS[layout])
    _, peak = benchmark.memory(benchmark._inference(CBAM(256), x), 'cpu')
    size = x.numel() * x.element_size() / benchmark.MIB
    parts = 0 if dtype == 'float32' else PART * 4 / benchmark.MIB
    assert size < peak < size + parts + 2


def test_mean_of_a_half_type_in_parts_is_that_of_the_whole(monkeypatch):
    monkeypatch.setattr(functional, 'PART', 2 * 4 * 9)
    x = torch.randn(2, 4, 9, 7).bfloat16()
    with torch.no_grad():
        for dim, keepdim in (((2, 3), False), ((2, 3), True), (1, True), (1, False)):
            found = functional.pool(x, 'avg', dim, keepdim)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, x.float().mean(dim, keepdim))


def test_hook_that_brings_a_gradient_gets_it_where_nothing_else_trains():
    module = randomised().requires_grad_(False)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    for gate in (module.channel_gate, module.spatial_gate):
        gate.register_forward_hook(lambda gate, args, weights: weights * scale)
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    (wanted,) = torch.autograd.grad(plain(module)(x).sum(), scale)
    (found,) = torch.autograd.grad(module(x).sum(), scale)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize('frozen', [True, False], ids=['frozen', 'no_grad'])
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_inference_equals_the_equations_and_leaves_the_input(options, layout, frozen):
    module = randomised(**options).eval().requires_grad_(not frozen)
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64).to(memory_format=LAYOUTS[layout])
    before, wanted = x.clone(), plain(module)(x).detach()
    with torch.set_grad_enabled(frozen):
        found = module(x)
    assert not found.requires_grad and found.is_contiguous(memory_format=LAYOUTS[layout])
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)
    assert torch.equal(x, before)


@pytest.mark.parametrize('order', ORDERS)
def test_gradients_reach_the_parameters_of_a_map_without_gradient(order):
    """The first block after frozen stages."""
    module = randomised(order=order)
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    other = plain(module)
    wanted = torch.autograd.grad(other(x).sum(), list(other.parameters()))
    found = torch.autograd.grad(module(x).sum(), list(module.parameters()))
    assert_same(list(found), list(wanted), 1e-12)


@pytest.mark.parametrize('order', ORDERS)
def test_frozen_module_passes_the_gradient_on(order):
    module = randomised(order=order).requires_grad_(False)
    x, g = torch.randn(2, 2, 8, 5, 6, dtype=torch.float64)
    wanted = output_and_gradients(plain(module), x, g)
    assert_same(output_and_gradients(module, x, g), wanted, 1e-12)


def test_backward_can_be_called_twice_and_in_parts():
    module = randomised()
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64, requires_grad=True)
    y = module(x)
    first = torch.autograd.grad(y.sum(), (x, *module.parameters()), retain_graph=True)
    second = torch.autograd.grad(y.sum(), (x, *module.parameters()))
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize('reentrant', [True, False])
def test_checkpointing_runs_the_module_once_more_and_changes_nothing(reentrant):
    module = randomised()
    x, g = torch.randn(2, 2, 8, 5, 6, dtype=torch.float64)
    wanted = output_and_gradients(module, x, g)
    x.requires_grad_()
    batches = module.spatial_gate.norm.num_batches_tracked
    before = batches.item()
    y = checkpoint(module, x, use_reentrant=reentrant)
    y.backward(g)
    assert_same([y, x.grad, *(one.grad for one in module.parameters())], wanted, 1e-12)
    assert batches.item() == before + 2


def test_input_is_freed_by_the_backward_pass_though_the_loss_lives():
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    for step in (lambda x: x * 1, lambda x: (x * 1)[:, :, ::2]):
        held = step(x)
        seen = weakref.ref(held)
        loss = CBAM(8, 2)(held).sum()
        del held
        loss.backward()
        assert seen() is None
        assert torch.isfinite(loss)


def test_hook_of_a_parameter_sees_its_gradient_once():
    module = randomised()
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    module(x).square().sum().backward()
    wanted = [parameter.grad.clone() for parameter in module.parameters()]
    module.zero_grad()
    for parameter in module.parameters():
        parameter.register_hook(lambda grad: grad / 2)
    module(x).square().sum().backward()
    for parameter, whole in zip(module.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, whole / 2)


def test_gate_alone_trains_under_autocast_and_stays_in_float32():
    module = CBAM(8, 2)
    x = torch.randn(2, 8, 5, 6)
    for gate in (module.channel_gate, module.spatial_gate):
        with torch.autocast('cpu', torch.bfloat16):
            y = gate(x)
        y.sum().backward()
        assert torch.equal(y, gate(x))


def test_changing_the_input_before_backward_is_an_error():
    x = torch.randn(1, 8, 4, 4, requires_grad=True)
    held = x * 1
    y = CBAM(8, 2)(held)
    held.add_(1)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        y.sum().backward()


def test_second_derivative_is_refused_and_had_with_lean_off():
    module = randomised()
    x = torch.randn(1, 8, 4, 4, dtype=torch.float64, requires_grad=True)

    def penalty(module):
        (slope,) = torch.autograd.grad(module(x).sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), x)[0]

    with pytest.raises(RuntimeError, match='no second derivative; give it memory_efficient=False'):
        penalty(module)
    inputs = torch.randn(1, 8, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(
        randomised(memory_efficient=False, act_cfg=dict(type='Tanh')), inputs
    )


def test_forward_mode_of_inference_is_that_of_the_equations():
    module = randomised().eval()
    x, direction = torch.randn(2, 2, 8, 5, 6, dtype=torch.float64)
    derivatives = []
    for one in (module, plain(module)):
        with torch.no_grad(), fwAD.dual_level():
            derivatives.append(fwAD.unpack_dual(one(fwAD.make_dual(x, direction))).tangent)
    torch.testing.assert_close(*derivatives)


def test_torch_func_gets_the_equations():
    module = randomised().eval()
    x = torch.randn(3, 2, 8, 4, 4, dtype=torch.float64)
    each = torch.func.vmap(torch.func.grad(lambda x: module(x).sum()))(x)
    for one, wanted in zip(x, each, strict=True):
        found = output_and_gradients(module, one, torch.ones_like(one))[1]
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize('twice', [False, True])
def test_gradients_reach_what_stands_in_for_the_parameters(twice):
    """FSDP and functional calls put tensors with a history in the parameters' place.

    In its forward pass FSDP puts them there `twice`, as attribute and as parameter.
    """
    module = randomised()
    flat = nn.utils.parameters_to_vector(module.parameters()).detach().requires_grad_()
    wanted = [one.grad for one in _backward_of(plain(module))]
    start = 0
    for path, parameter in list(module.named_parameters()):
        owner = module.get_submodule(path.rpartition('.')[0])
        delattr(owner, path.rpartition('.')[2])
        view = flat[start : start + parameter.numel()].view(parameter.shape)
        setattr(owner, path.rpartition('.')[2], view)
        if twice:
            owner._parameters[path.rpartition('.')[2]] = view
        start += parameter.numel()
    module(torch.ones(1, 8, 3, 3, dtype=torch.float64).cumsum(3)).square().sum().backward()
    torch.testing.assert_close(flat.grad, torch.cat([one.flatten() for one in wanted]))


def _backward_of(module: CBAM) -> list[nn.Parameter]:
    module(torch.ones(1, 8, 3, 3, dtype=torch.float64).cumsum(3)).square().sum().backward()
    return list(module.parameters())


@pytest.mark.parametrize('order', ORDERS)
def test_autocast_leaves_the_gates_in_float32_and_the_map_in_its_type(order):
    module = CBAM(16, 4, order=order)
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    x, g = torch.randn(2, 2, 16, 9, 9).bfloat16()
    with torch.autocast('cpu', torch.bfloat16):
        found = output_and_gradients(module, x, g)
    wanted = output_and_gradients(copy.deepcopy(module).double(), x.double(), g.double())
    assert [one.dtype for one in found[:3]] == [torch.bfloat16, torch.bfloat16, torch.float32]
    assert_same([found[0].double()], wanted[:1], 4e-3)  # a step of bfloat16
    assert_same(
        [torch.cat([one.double().flatten() for one in found[2:]])],
        [torch.cat([one.flatten() for one in wanted[2:]])],
        0.02,
    )


class TestCompiled:
    """`torch.compile`, with the backend that compiles no C++ unless said otherwise."""

    @pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
    @pytest.mark.parametrize('options', OPTIONS[:10], ids=str)
    def test_graph_has_no_breaks_and_equals_the_module(self, options, training):
        module = randomised(**options).train(training)
        x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
        torch._dynamo.reset()
        seen = torch._dynamo.explain(copy.deepcopy(module))(x)
        assert (seen.graph_count, seen.graph_break_count) == (1, 0), seen.break_reasons
        compiled = torch.compile(copy.deepcopy(module), backend='aot_eager', fullgraph=True)
        g = torch.randn_like(x)
        found = output_and_gradients(compiled, x, g)
        assert_same(found, output_and_gradients(module, x, g), 1e-12)

    def test_one_graph_serves_maps_of_any_size(self):
        torch._dynamo.reset()
        module = randomised().eval()
        counter = CompileCounterWithBackend('aot_eager')
        compiled = torch.compile(module, backend=counter, fullgraph=True, dynamic=True)
        frames = []
        for size in ((2, 8, 5, 6), (3, 8, 9, 4), (4, 8, 200, 31)):
            x = torch.randn(size, dtype=torch.float64)
            torch.testing.assert_close(compiled(x), module(x), rtol=1e-12, atol=1e-13)
            frames.append(counter.frame_count)
        assert len(set(frames)) == 1 and frames[0] > 0

    def test_option_compiles_in_place_and_copies_and_weights_stay_usable(self, monkeypatch):
        torch._dynamo.reset()
        counter = CompileCounterWithBackend('aot_eager')
        monkeypatch.setattr(torch, 'compile', partial(torch.compile, backend=counter))
        module = CBAM(8, 2, compile=True)
        other = CBAM(8, 2)
        other.load_state_dict(module.state_dict())
        x = torch.randn(2, 8, 5, 6)
        torch.testing.assert_close(module(x), other(x))
        assert counter.frame_count > 0
        torch.testing.assert_close(copy.deepcopy(module).eval()(x), other.eval()(x))

    def test_every_cbam_of_a_backbone_is_compiled_in_training_and_inference(self, monkeypatch):
        """They share their code, of which torch compiles eight forms unless it is told more."""
        torch._dynamo.reset()
        monkeypatch.setattr(torch, 'compile', partial(torch.compile, backend='eager'))
        if not hasattr(torch._dynamo.config, 'fail_on_recompile_limit_hit'):
            pytest.skip('torch before 2.6 cannot be told to fail where it stops to compile')
        monkeypatch.setattr(torch._dynamo.config, 'recompile_limit', 8)
        allow_compilations()
        monkeypatch.setattr(torch._dynamo.config, 'fail_on_recompile_limit_hit', True)
        plugins = [dict(cfg=dict(type='CBAM', compile=True), after='layer*.*.bn3')]
        with DefaultScope.overwrite_default_scope('mmdet'):
            base = dict(type='WithPlugins', base_type='ResNet', depth=50, base_channels=8)
            cfg = dict(base, plugins=plugins, frozen_stages=1)
            net = MODELS.build(cfg)
        for size in (64, 96):
            net.train()
            net(torch.randn(2, 3, size, size))[-1].sum().backward()
            net.eval()
            with torch.no_grad():
                net(torch.randn(1, 3, size, size))

    @pytest.mark.slow
    def test_generated_code_equals_the_module(self):
        torch._dynamo.reset()
        module, other = CBAM(16, 4, compile=True), CBAM(16, 4)
        other.load_state_dict(module.state_dict())
        x, g = torch.randn(2, 2, 16, 20, 24)
        found = output_and_gradients(module, x, g)
        assert_same(found, output_and_gradients(other, x, g), 1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('order', ORDERS)
def test_gpu_equals_the_cpu_without_waiting_for_it(order):
    module = CBAM(64, order=order)
    x, g = torch.randn(2, 2, 64, 40, 40)
    wanted = output_and_gradients(module, x, g)
    module.cuda()
    x, g = x.cuda(), g.cuda()
    torch.cuda.set_sync_debug_mode('error')
    try:
        found = output_and_gradients(module, x, g)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert_same([one.cpu() for one in found], wanted, 1e-4)
