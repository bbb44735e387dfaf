"""Outputs and gradients of a CBAM, and their comparison."""

from __future__ import annotations

import copy

import torch

from cbam_det import CBAM

LAYOUTS = {'contiguous': torch.contiguous_format, 'channels_last': torch.channels_last}


def plain(module: CBAM) -> CBAM:
    """A copy that computes the plain equations, by autograd."""
    other = copy.deepcopy(module)
    other.memory_efficient = False
    return other


def output_and_gradients(module: CBAM, x: torch.Tensor, g: torch.Tensor) -> list[torch.Tensor]:
    """Of `module(x)`, then by x and by each weight that trains, for the output's gradient g."""
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
