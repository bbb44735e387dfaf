"""Hooks, checkpointing, torch.func and replaced parameters with the memory-efficient pass."""

from __future__ import annotations

import pytest
import torch
import torch.autograd.forward_ad as fwAD
from torch import nn
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

from cbam_det import CBAM

from .cbam_options import randomised
from .gradients import assert_same, output_and_gradients, plain

pytestmark = pytest.mark.usefixtures('one_thread')


def test_parameter_of_a_hook_gets_its_gradient_if_nothing_else_trains():
    module = randomised().requires_grad_(False)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    for gate in (module.channel_gate, module.spatial_gate):
        gate.register_forward_hook(lambda gate, args, weights: weights * scale)
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    (expected,) = torch.autograd.grad(plain(module)(x).sum(), scale)
    (actual,) = torch.autograd.grad(module(x).sum(), scale)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize('reentrant', [True, False])
def test_checkpointing_runs_the_module_once_more_and_changes_nothing(reentrant):
    module = randomised()
    x, g = torch.randn(2, 2, 8, 5, 6, dtype=torch.float64)
    expected = output_and_gradients(module, x, g)
    x.requires_grad_()
    batches = module.spatial_gate.norm.num_batches_tracked
    before = batches.item()
    y = checkpoint(module, x, use_reentrant=reentrant)
    y.backward(g)
    assert_same(
        [y, x.grad, *(parameter.grad for parameter in module.parameters())], expected, 1e-12
    )
    assert batches.item() == before + 2


def test_hook_of_a_parameter_sees_its_gradient_once():
    module = randomised()
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    module(x).square().sum().backward()
    whole_gradients = [parameter.grad.clone() for parameter in module.parameters()]
    module.zero_grad()
    for parameter in module.parameters():
        parameter.register_hook(lambda grad: grad / 2)
    module(x).square().sum().backward()
    for parameter, whole in zip(module.parameters(), whole_gradients, strict=True):
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
    features = x * 1
    y = CBAM(8, 2)(features)
    features.add_(1)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        y.sum().backward()


@pytest.mark.parametrize('memory_efficient', [True, False])
@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('channel_gate.fc2.weight', {}),
        ('spatial_gate.conv.weight', {}),
        ('spatial_gate.conv.weight', dict(spatial_pools='lp')),
        ('spatial_gate.summary.weight', dict(spatial_pools='conv')),
    ],
)
def test_changing_a_parameter_before_backward_is_an_error(name, options, memory_efficient):
    module = randomised(memory_efficient=memory_efficient, **options)
    y = module(torch.randn(2, 8, 5, 6, dtype=torch.float64))
    with torch.no_grad():
        module.get_parameter(name).add_(1)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        y.sum().backward()


def test_a_module_may_run_twice_before_backward():
    """The norm's statistics change in place, but the gradient does not depend on them."""
    module = randomised()
    x, g = torch.randn(2, 2, 8, 5, 6, dtype=torch.float64)
    expected = output_and_gradients(plain(module), x, g)[1]
    x.requires_grad_()
    y = module(x)
    module(x.detach())
    y.backward(g)
    torch.testing.assert_close(x.grad, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.filterwarnings('ignore:.*weight_norm.*is deprecated:FutureWarning')
@pytest.mark.parametrize(
    'reparametrise',
    [
        lambda layer: prune.l1_unstructured(layer, 'weight', 0.5),
        nn.utils.weight_norm,
        lambda layer: nn.utils.spectral_norm(layer).eval(),
        nn.utils.parametrizations.weight_norm,
    ],
    ids=['prune', 'weight_norm', 'spectral_norm', 'parametrization'],
)
def test_weights_that_hooks_compute_train_for_several_steps_as_with_autograd(reparametrise):
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    gradients: list[list[torch.Tensor]] = []
    for memory_efficient in (True, False):
        torch.manual_seed(0)
        module = randomised(memory_efficient=memory_efficient)
        reparametrise(module.channel_gate.fc1)
        reparametrise(module.spatial_gate.conv)
        optim = torch.optim.SGD(module.parameters(), 1e-3)
        for _ in range(2):
            optim.zero_grad()
            module(x).square().sum().backward()
            optim.step()
        gradients.append([parameter.grad for parameter in module.parameters()])
    for gradient_pair in zip(*gradients, strict=True):
        torch.testing.assert_close(*gradient_pair, rtol=1e-10, atol=1e-10)


def test_second_derivative_needs_memory_efficient_false():
    module = randomised()
    x = torch.randn(1, 8, 4, 4, dtype=torch.float64, requires_grad=True)

    def penalty(module):
        (slope,) = torch.autograd.grad(module(x).sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), x)[0]

    with pytest.raises(RuntimeError, match='no second derivative; set memory_efficient=False'):
        penalty(module)
    inputs = torch.randn(1, 8, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(
        randomised(memory_efficient=False, act_cfg=dict(type='Tanh')), inputs
    )


def test_forward_mode_of_inference_is_that_of_the_equations():
    module = randomised().eval()
    x, direction = torch.randn(2, 2, 8, 5, 6, dtype=torch.float64)
    derivatives = []
    for function in (module, plain(module)):
        with torch.no_grad(), fwAD.dual_level():
            derivatives.append(fwAD.unpack_dual(function(fwAD.make_dual(x, direction))).tangent)
    torch.testing.assert_close(*derivatives)


def test_torch_func_differentiates_the_equations():
    module = randomised().eval()
    x = torch.randn(3, 2, 8, 4, 4, dtype=torch.float64)
    gradients = torch.func.vmap(torch.func.grad(lambda x: module(x).sum()))(x)
    for sample, gradient in zip(x, gradients, strict=True):
        expected = output_and_gradients(module, sample, torch.ones_like(sample))[1]
        torch.testing.assert_close(gradient, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize('twice', [False, True])
def test_gradients_reach_the_tensors_that_replace_the_parameters(twice):
    """FSDP and functional calls replace the parameters by tensors with a history.

    In its forward pass FSDP does so `twice`, by an attribute and by an entry of the parameters.
    """
    module = randomised()
    flat = nn.utils.parameters_to_vector(module.parameters()).detach().requires_grad_()
    expected = [parameter.grad for parameter in _backward_of(plain(module))]
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
    torch.testing.assert_close(flat.grad, torch.cat([gradient.flatten() for gradient in expected]))


def _backward_of(module: CBAM) -> list[nn.Parameter]:
    module(torch.ones(1, 8, 3, 3, dtype=torch.float64).cumsum(3)).square().sum().backward()
    return list(module.parameters())
