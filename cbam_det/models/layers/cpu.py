"""Faster versions of two operations that are slow in torch on a CPU, with the same results."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from .pooling import is_traced

GROUPS = 32  # torch's reductions process this many adjacent numbers at once


def max_and_index(y: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The maximum of (n, C, p) along an axis, and the index of one of the largest elements.

    torch's maximum with indices is not vectorised on a CPU. So this computes the maxima of groups
    first, then finds a group with the maximum and the element in it.
    """
    if y.stride(1) < y.stride(2):  # torch reduces faster in memory order
        return max_and_index(y.mT, 3 - axis)
    size = y.shape[axis]
    members = size // GROUPS
    if not y.is_cpu or members < 2 or y.numel() < 2**16:
        return y.max(axis)
    grouped = y.narrow(axis, 0, members * GROUPS).unflatten(axis, (members, GROUPS))
    group_maxima = grouped.amax(axis)
    value = group_maxima.amax(axis)
    group = _index_of(group_maxima, value, axis)
    sizes = [-1] * grouped.dim()
    sizes[axis] = members
    group_index = group.unsqueeze(axis).unsqueeze(axis).expand(sizes)
    group_values = grouped.gather(axis + 1, group_index).squeeze(axis + 1)
    index = group + GROUPS * _index_of(group_values, value, axis)
    if remainder := size - members * GROUPS:
        rest_value, rest_index = y.narrow(axis, size - remainder, remainder).max(axis)
        index = torch.where(rest_value > value, rest_index + size - remainder, index)
        value = torch.maximum(rest_value, value)
    return value, index


def _index_of(y: Tensor, value: Tensor, axis: int) -> Tensor:
    indices = torch.arange(y.shape[axis], dtype=torch.int32).view(-1, *[1] * (y.dim() - axis - 1))
    return torch.where(y == value.unsqueeze(axis), indices, 0).amax(axis).long()


class FewMapsConv2d(nn.Conv2d):
    """A convolution of few maps to one map with an odd kernel; it has the options of Conv2d.

    On a CPU its gradient is computed by another convolution, since oneDNN's takes 15 times as long.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, P, H, W) -> (N, 1, H, W)."""
        plain = is_traced(x) or not x.is_cpu or not torch.is_grad_enabled()
        if plain or not (x.requires_grad or self.weight.requires_grad):
            return super().forward(x)
        y = _Convolve.apply(x, self.weight)
        return y if self.bias is None else y + self.bias[:, None, None]


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx, maps: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(maps, weight)
        return F.conv2d(maps, weight, padding=weight.shape[-1] // 2)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        maps, weight = ctx.saved_tensors
        padding = weight.shape[-1] // 2
        flipped = weight.flip(2, 3).transpose(0, 1)
        return (
            F.conv2d(grad, flipped, padding=padding),
            conv2d_weight(maps, weight.shape, grad, padding=padding),
        )
