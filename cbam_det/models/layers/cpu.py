"""What torch is slow at on a CPU, written another way, with the same results."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from .pooling import is_traced

GROUPS = 32  # as many numbers beside each other torch's reductions take at once


def max_and_index(y: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The maximum of (n, C, p) along an axis, and the index of one of those that have it.

    Torch's own maximum with indices is not vectorised on a CPU. So the maxima of groups are taken
    first; then the group that has the maximum, and its member, are looked for.
    """
    if y.stride(1) < y.stride(2):  # reductions of torch want the order that memory has
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
    """A convolution of few maps to one by an odd kernel; the options are Conv2d's.

    On a CPU its gradient is written as a convolution: oneDNN's own takes 15 times as long.
    """

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        plain = is_traced(x) or not x.is_cpu or not torch.is_grad_enabled()
        if plain or not (x.requires_grad or weight.requires_grad):
            return super()._conv_forward(x, weight, bias)
        y = _Convolve.apply(x, weight)
        return y if bias is None else y + bias[:, None, None]


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
