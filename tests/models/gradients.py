"""Outputs and gradients of a CBAM, and their comparison."""

from __future__ import annotations

import copy

import torch

from cbam_det import CBAM

LAYOUTS = {'contiguous': torch.contiguous_format, 'channels_last': torch.channels_last}


def plain(module: CBAM) -> CBAM:
    """A copy that computes the plain equations, by autograd."""
    plain_copy = copy.deepcopy(module)
    plain_copy.memory_efficient = False
    return plain_copy


def output_and_gradients(module: CBAM, x: torch.Tensor, g: torch.Tensor) -> list[torch.Tensor]:
    """`module(x)`, and for an output gradient g the gradients by x and the trainable parameters."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = module(x)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [y.detach(), *torch.autograd.grad(y, (x, *parameters), g)]


def assert_same(actual: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float) -> None:
    """Compare the norms of output, input gradient and all parameter gradients together.

    Together, because some are 0 apart from rounding, such as that of a bias before a norm.
    """
    assert [tensor.shape for tensor in actual] == [tensor.shape for tensor in expected]
    pairs = list(zip(actual[:2], expected[:2], strict=True))
    if actual[2:]:
        pairs.append((_concatenated(actual[2:]), _concatenated(expected[2:])))
    for value, target in pairs:
        assert (value - target).norm() <= tolerance * target.norm()


def _concatenated(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])
