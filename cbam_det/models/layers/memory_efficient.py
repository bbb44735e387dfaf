"""CBAM's forward and backward pass with one feature map kept; this file needs torch alone.

Autograd on the plain equations keeps the feature map before and after each gate, and reads or
writes one about 20 times a step. Here the forward pass keeps its input, the gates' weights and the
places of the maxima; the backward pass recomputes the rest. With x the input, u and v the weights
of the first and the second gate, g the output's gradient, t = g x, and sums over the axis that the
weights lack:

    dv = sum t u        du = sum t v + sum r x        dx = u (g v + r) + q

r and q are the gradients that come back through the pools of the second and of the first gate: for
a mean the same number along the pooled axis, for a maximum one number at its place. In parallel
the second gate pools x itself: du = sum t v and dx = u g v + r + q.

Maps are worked through in blocks, on a CPU such that stay in its cache. What lies between pools and
weights, a few numbers per image, is left to autograd, whatever its layers are.

    N batch, C channels, P = H x W pixels, K pools of a gate
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from .pooling import is_compiling, wide_type

POOLS = frozenset({'avg', 'max'})
# Bytes of a feature map that are worked on at once.
BLOCK = {'cpu': 2**23, 'cuda': 2**26, 'meta': 2**62}
GROUPS = 32  # as many numbers beside each other torch's reductions take at once

Block = tuple[slice, slice, slice]


@dataclass
class Gate:
    """A gate, and what its forward pass leaves for its backward pass.

    Attributes:
        axis: the axis of (N, C, P) that it pools: 2 in a channel gate, 1 in a spatial gate.
        pools: of 'avg' and 'max', each once.
        function: pooled values, (N, K, C) or (N, K, P), -> weights, (N, C) or (N, P), by
            differentiable operations; in float32, or float64 where the map is.
        parameters: the tensors with gradient that `function` reads; it gets others in their place.
    """

    axis: int
    pools: Sequence[str]
    function: Callable[[Tensor, dict[str, Tensor]], Tensor]
    parameters: dict[str, Tensor]
    pooled: Tensor | None = None
    places: Tensor | None = None
    made: Tensor | None = None

    def weigh(self, y: Tensor, fill: Callable[[Block], None] | None = None) -> Tensor:
        """Pool a map, (N, C, P), of which `fill` first writes the block; return the weights.

        What the backward pass needs is kept. The weights have size 1 along `axis`.
        """
        count, size = len(y), y.shape[3 - self.axis]
        self.pooled = y.new_empty((count, len(self.pools), size), dtype=wide_type(y))
        self.places = y.new_zeros((count, size), dtype=torch.int64)
        for block in _blocks(y):
            if fill is not None:
                fill(block)
            start = block[self.axis].start or 0
            here = (block[0], block[3 - self.axis])
            for number, kind in enumerate(self.pools):
                values = self.pooled[:, number][here]
                if kind == 'avg':
                    part = y[block].sum(self.axis, dtype=values.dtype)
                    values.copy_(values + part if start else part)
                    continue
                part, places = max_and_place(y[block], self.axis)
                if start:
                    places = torch.where(part > values, places + start, self.places[here])
                    part = torch.maximum(values, part)
                self.places[here] = places
                values.copy_(part)
        if 'avg' in self.pools:
            self.pooled[:, self.pools.index('avg')] /= y.shape[self.axis]
        # Aliases, so that the parameters' own hooks see a gradient once, in the pass outside; and
        # tensors are held here as they are, whatever is done with those outside (checkpointing).
        self.pooled.requires_grad_()
        self.parameters = {
            name: value.detach().requires_grad_() for name, value in self.parameters.items()
        }
        as_they_are = torch.autograd.graph.saved_tensors_hooks(Tensor.detach, lambda kept: kept)
        with torch.enable_grad(), as_they_are:
            self.made = self.function(self.pooled, self.parameters).unsqueeze(self.axis)
        return self.made.detach()

    def back(self, grad: Tensor, size: int) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """From the weights' gradient to what comes out of a mean over `size`, per pooled number,
        of a maximum, and the parameters' gradients. The first two have size 1 along `axis`.
        """
        pooled, *parameters = torch.autograd.grad(
            *(self.made, (self.pooled, *self.parameters.values()), grad.to(self.made.dtype)),
            retain_graph=True,  # the caller decides how often there is a backward pass
            allow_unused=True,
        )
        none = pooled.new_zeros(1, 1, 1)
        of = dict(zip(self.pools, pooled.unsqueeze(self.axis + 1).unbind(1), strict=True))
        return of.get('avg', none) / size, of.get('max', none), parameters


def unfit(x: Tensor) -> bool:
    """Whether the plain equations are the choice for `x`: under `torch.compile`, a tracer, an
    export or `torch.func`, and on a device that is neither CPU nor GPU nor 'meta'.
    """
    return (
        is_compiling()
        or torch.jit.is_tracing()
        or type(x) not in (Tensor, torch.nn.Parameter)
        or x.device.type not in BLOCK
        or torch._C._are_functorch_transforms_active()
    )


def attend(x: Tensor, gates: Sequence[Gate], parallel: bool = False) -> Tensor:
    """`x` times the weights of one or two gates, for a backward pass.

    Args:
        x: (N, C, H, W), any float type, on a CPU or a GPU.
        gates: in their order, of different axes.
        parallel: the second gate pools `x`, not `x` times the weights of the first.

    Returns:
        (N, C, H, W), in the type and memory format of `x`. Of tied maxima one gets the gradient.

    Raises:
        RuntimeError: in the backward pass, where a graph of it is asked for (`create_graph`).
    """
    if not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
        x = x.contiguous()
    parameters = [value for gate in gates for value in gate.parameters.values()]
    return _Attend.apply(x, gates, parallel, *parameters)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, gates: Sequence[Gate], parallel: bool, *_: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.gates, ctx.parallel = gates, parallel
        return _forward(x, gates, parallel)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # else a second derivative would be silently incomplete
            raise RuntimeError(
                'the memory-efficient CBAM has no second derivative; give it memory_efficient=False'
            )
        (x,) = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            return _backward(x, g, ctx.gates, ctx.parallel, ctx.needs_input_grad[0])


def _forward(x: Tensor, gates: Sequence[Gate], parallel: bool) -> Tensor:
    out = torch.empty_like(x)
    x, y = _flat(x), _flat(out)

    def scale(a: Tensor, weights: Tensor, block: Block) -> None:
        torch.mul(a[block], _at(weights, block).to(a.dtype), out=y[block])

    first, *rest = gates
    u = first.weigh(x)
    v = None
    for second in rest:
        v = second.weigh(x) if parallel else second.weigh(y, lambda b: scale(x, u, b))
    for block in _blocks(x):
        if parallel or v is None:
            scale(x, u, block)
        if v is not None:
            scale(y, v, block)
    return out


def _backward(
    x: Tensor, g: Tensor, gates: Sequence[Gate], parallel: bool, needs_dx: bool
) -> tuple[Tensor | None, ...]:
    dx = torch.empty_like(x) if needs_dx else None
    layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
    g = _flat(g.contiguous(memory_format=layout))
    x, out = _flat(x), None if dx is None else _flat(dx)
    first, *rest = gates
    wide, along = wide_type(x), 3 - first.axis  # the first gate's weights lie along this axis
    u = first.made.detach().to(wide)
    v = rest[0].made.detach().to(wide) if rest else u.new_ones(x.narrow(along, 0, 1).shape)
    du, dv = torch.zeros_like(u), torch.zeros_like(v)
    for block in _blocks(x):
        # dx is free until the last pass, and fresh memory costs more than arithmetic.
        free = out[block] if dx is not None and dx.dtype == wide else None
        t = torch.mul(g[block].to(wide), x[block], out=free)
        _at(du, block).add_(_sum(t, _at(v, block), first.axis))
        if rest:
            _at(dv, block).add_(_sum(t, _at(u, block), along))

    r, peaks, grads = v.new_zeros(1, 1, 1), [], []
    for second in rest:
        r, peak, grads = second.back(dv, x.shape[along])
        if not parallel and 'avg' in second.pools:
            for block in _blocks(x):
                _at(du, block).add_(_sum(x[block].to(wide), _at(r, block), first.axis))
        if 'max' in second.pools:
            places = second.places.unsqueeze(along)
            if not parallel:
                du.scatter_add_(along, places.mT, (peak * x.gather(along, places)).mT)
                peak = peak * u.gather(along, places.mT).mT
            peaks.append((along, places, peak))
    q, peak, first_grads = first.back(du, x.shape[first.axis])
    if 'max' in first.pools:
        peaks.append((first.axis, first.places.unsqueeze(first.axis), peak))

    if dx is not None:
        for block in _blocks(x):
            here = out[block]
            if parallel:
                torch.mul(g[block], _at(v, block), out=here)
                torch.addcmul(_at(q, block) + _at(r, block), here, _at(u, block), out=here)
            else:
                torch.addcmul(_at(r, block), g[block].to(wide), _at(v, block), out=here)
                torch.addcmul(_at(q, block), here.to(wide), _at(u, block), out=here)
        for axis, places, peak in peaks:
            out.scatter_add_(axis, places, peak.to(out.dtype))
    return (dx, None, None, *first_grads, *grads)


def max_and_place(y: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The maximum of (n, C, p) along an axis, and the place of one of those that have it.

    Torch's own maximum with indices is not vectorised on a CPU. So the maxima of groups are taken
    first; then the group that has the maximum, and its member, are looked for.
    """
    if y.stride(1) < y.stride(2):  # reductions of torch want the order that memory has
        return max_and_place(y.mT, 3 - axis)
    size = y.shape[axis]
    members = size // GROUPS
    if not y.is_cpu or members < 2 or y.numel() < 2**16:
        return y.max(axis)
    even = y.narrow(axis, 0, members * GROUPS).unflatten(axis, (members, GROUPS))
    tops = even.amax(axis)
    value = tops.amax(axis)
    group = _place(tops, value, axis)
    sizes = [-1] * even.dim()
    sizes[axis] = members
    chosen = group.unsqueeze(axis).unsqueeze(axis).expand(sizes)
    place = group + GROUPS * _place(even.gather(axis + 1, chosen).squeeze(axis + 1), value, axis)
    if left := size - members * GROUPS:
        rest, place_of_rest = y.narrow(axis, size - left, left).max(axis)
        place = torch.where(rest > value, place_of_rest + size - left, place)
        value = torch.maximum(rest, value)
    return value, place


def _place(y: Tensor, value: Tensor, axis: int) -> Tensor:
    numbers = torch.arange(y.shape[axis], dtype=torch.int32).view(-1, *[1] * (y.dim() - axis - 1))
    return torch.where(y == value.unsqueeze(axis), numbers, 0).amax(axis).long()


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx, maps: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(maps, weight)
        return F.conv2d(maps, weight, padding=weight.shape[-1] // 2)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        maps, weight = ctx.saved_tensors
        padding = weight.shape[-1] // 2
        turned = weight.flip(2, 3).transpose(0, 1)
        return (
            F.conv2d(grad, turned, padding=padding),
            conv2d_weight(maps, weight.shape, grad, padding=padding),
        )


def convolve(maps: Tensor, weight: Tensor) -> Tensor:
    """`F.conv2d` of K maps, (N, K, H, W), by an odd kernel, (1, K, k, k), to one of the same size.

    The gradient is written as a convolution: on a CPU oneDNN's takes 15 times as long.
    """
    return _Convolve.apply(maps, weight)


def _sum(t: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Sum of (n, C, p) times weights, which lie along `axis`; that axis stays, with size 1."""
    if not t.is_cpu:  # where a product may be rounded to TF32
        return (t * weights).sum(axis, keepdim=True)
    return torch.bmm(weights, t.mT).mT if axis == 2 else torch.bmm(weights.mT, t)


def _flat(x: Tensor) -> Tensor:
    """(N, C, H, W), contiguous or channels last, -> a view, (N, C, P)."""
    if x.is_contiguous():
        return x.flatten(2)
    return x.permute(0, 2, 3, 1).flatten(1, 2).transpose(1, 2)


def _at(weights: Tensor, block: Block) -> Tensor:
    """The part of (N, C, 1) or (N, 1, P) that meets a block of (N, C, P); a view."""
    return weights[
        tuple(
            part if size > 1 else slice(None)
            for part, size in zip(block, weights.shape, strict=True)
        )
    ]


def _blocks(x: Tensor) -> Iterator[Block]:
    """Blocks of (N, C, P) that lie in one piece in memory: some images, or a part of one."""
    whole = slice(None)
    image = max(1, math.prod(x.shape[1:]) * x.element_size())
    most = BLOCK[x.device.type]
    images = max(1, most // image)
    axis = 1 if x.is_contiguous() else 2
    size = x.shape[axis]
    step = max(1, math.ceil(size / math.ceil(image / most)))
    for n in range(0, len(x), images):
        for start in range(0, size, step):
            part = slice(start, start + step)
            yield slice(n, n + images), *((part, whole) if axis == 1 else (whole, part))
