"""CBAM's forward and backward pass that keeps one feature map: `attend`. It needs only torch.

Autograd on the plain equations keeps the feature map before and after each gate, and reads or
writes a map about 20 times per step. This forward pass keeps its input (after a norm with fixed
statistics not even that, see norm_input.py), the gates' weights and the indices of the maxima; the
backward pass recomputes the rest. x is the input, u and v are the weights of the first and the
second gate, g is the gradient of the output, t = g x, and sums are over the axis that the weights
do not have:

    dv = sum t u        du = sum t v + sum r x        dx = u (g v + r) + q

r and q are the gradients through the pools of the second and of the first gate: the same number
along the pooled axis for a mean, one number at the index of the maximum for a maximum. In parallel
the second gate pools x itself: du = sum t v and dx = u g v + r + q.

Maps are processed in blocks that fit in a CPU's cache. Autograd differentiates the layers between
pools and weights, which have few numbers per image.

    N batch, C channels, P = H x W pixels, K pools of a gate
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .checkpointed import attend_checkpointed
from .cpu import max_and_index
from .gate import Gate
from .norm_input import NormInput
from .pooling import full_precision, is_traced, wide_type
from .torch_private import names_set_by_hooks
from .versions import if_unchanged, with_version

POOLS = frozenset({'avg', 'max'})
# Bytes of a feature map that are processed at once.
BLOCK = {'cpu': 2**23, 'cuda': 2**26, 'meta': 2**62}

# Maps with fewer numbers train faster by autograd, where the calls of this pass cost more than the
# arithmetic. Measured by `python -m benchmarks.speed threshold`.
SMALL = 500_000

Block = tuple[slice, slice, slice]


def is_used(x: Tensor, option: bool | None) -> bool:
    """Whether `attend` computes the attention of `x`.

    It works on a CPU, a GPU or the meta device, without tracing.

    Args:
        option: the module's `memory_efficient`; with None it is used where it is at least as fast
            as autograd.
    """
    if option is False or is_traced(x) or x.device.type not in BLOCK:
        return False
    return option or x.numel() >= SMALL or not torch.is_grad_enabled()


def attend(
    x: Tensor,
    gates: Sequence[Gate],
    parallel: bool = False,
    norm_input: NormInput | None = None,
) -> Tensor:
    """Multiply `x` by the weights of one or two gates.

    Without gradients only the output is allocated ('lse' needs a second map). With gradients only
    `x` is kept for the backward pass: by the pass of this file for the pools 'avg' and 'max', by
    checkpointing for others.

    Args:
        x: (N, C, H, W) of any float dtype for which `is_used` is True.
        gates: one or two gates with different axes, in order.
        parallel: the second gate pools `x`, not `x` times the weights of the first.
        norm_input: what a norm computed `x` from, to keep in place of `x`.

    Returns:
        (N, C, H, W) in the dtype and memory format of `x`. One of tied maxima gets the gradient.

    Raises:
        RuntimeError: the backward pass is called with `create_graph=True`.
    """
    with full_precision(x):
        has_gradient = torch.is_grad_enabled() and (
            x.requires_grad or any(map(_trainable_tensors, gates))
        )
        if not has_gradient:
            return _attend_in_place(x, gates, parallel)
        if not POOLS.issuperset(pool for gate in gates for pool in gate.pools):
            return attend_checkpointed(x, gates, parallel)
        if not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
            x, norm_input = x.contiguous(), None
        if norm_input is not None and norm_input.dtype != x.dtype:
            norm_input = None  # FSDP's mixed precision has converted the map
        gate_passes = [_make_gate_pass(gate, x.shape[2:]) for gate in gates]
        parameters = [value for gate_pass in gate_passes for value in gate_pass.parameters.values()]
        return _Attend.apply(x, norm_input, gate_passes, parallel, *parameters)


def _attend_in_place(x: Tensor, gates: Sequence[Gate], parallel: bool) -> Tensor:
    """The equations, where the second product overwrites the first, unless a hook on a gate needs
    its gradient.
    """
    y = x
    for gate in gates:
        weights = gate(gate.pool(x if parallel else y), pooled=True).to(y.dtype)
        in_place = y is not x and not (y.requires_grad or weights.requires_grad)
        y = y.mul_(weights) if in_place else y * weights
    return y


def _make_gate_pass(gate: Gate, size: torch.Size) -> GatePass:
    """Prepare a gate for maps of this height and width."""

    def compute_weights(pooled: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        if gate.axis == 1:
            pooled = pooled.unflatten(2, size)
        with _without_fsdp_views(gate):
            # functional_call writes the tensors that hooks set into its dictionary: pass a copy.
            weights = functional_call(gate, dict(parameters), (pooled,), dict(pooled=True))
        return weights.flatten(1)

    return GatePass(gate.axis, gate.pools, compute_weights, _trainable_tensors(gate))


def _trainable_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that need a gradient, by name. FSDP replaces parameters by views.

    Tensors that a hook computes from other parameters in each pass are left out.
    """
    return {
        f'{path}.{name}'.lstrip('.'): value
        for path, submodule in module.named_modules()
        for name, value in (*_own_parameters(submodule).items(), *vars(submodule).items())
        if isinstance(value, Tensor) and value.requires_grad
        if name not in names_set_by_hooks(submodule)
    }


def _own_parameters(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters(recurse=False, remove_duplicate=False))


@contextmanager
def _without_fsdp_views(module: nn.Module) -> Iterator[None]:
    """Remove FSDP's attributes with the names of parameters: they would hide those of the call."""
    hidden = [
        (vars(submodule), name, vars(submodule).pop(name))
        for submodule in module.modules()
        for name in vars(submodule).keys() & _own_parameters(submodule).keys()
    ]
    try:
        yield
    finally:
        for attributes, name, value in hidden:
            attributes[name] = value


@dataclass
class GatePass:
    """A gate in a forward pass, with what the backward pass needs.

    Attributes:
        axis: the axis of (N, C, P) that it pools: 2 in a channel gate, 1 in a spatial gate.
        pools: 'avg', 'max' or both.
        function: computes the weights, (N, C) or (N, P), from the pooled values, (N, K, C) or
            (N, K, P), and the parameters; in float32, or float64 for a float64 map.
        parameters: the tensors that `function` reads and that need a gradient.
        pooled: the pooled values.
        max_indices: the indices of the maxima.
        weights: the gate's weights with their graph.
    """

    axis: int
    pools: Sequence[str]
    function: Callable[[Tensor, dict[str, Tensor]], Tensor]
    parameters: dict[str, Tensor]
    pooled: Tensor = field(init=False)
    max_indices: Tensor = field(init=False)
    weights: Tensor = field(init=False)

    def compute_weights(self, y: Tensor, fill: Callable[[Block], None] | None = None) -> Tensor:
        """Pool a map (N, C, P), keep what the backward pass needs, and return the weights.

        `fill` writes each block of the map before it is pooled. The weights have size 1 along
        `axis`.
        """
        count, size = len(y), y.shape[3 - self.axis]
        self.pooled = y.new_empty((count, len(self.pools), size), dtype=wide_type(y))
        self.max_indices = y.new_zeros((count, size), dtype=torch.int64)
        for block in _blocks(y):
            if fill is not None:
                fill(block)
            start = block[self.axis].start or 0
            pooled_block = (block[0], block[3 - self.axis])
            for pool_index, kind in enumerate(self.pools):
                values = self.pooled[:, pool_index][pooled_block]
                if kind == 'avg':
                    block_value = y[block].sum(self.axis, dtype=values.dtype)
                    values.copy_(values + block_value if start else block_value)
                    continue
                block_value, indices = max_and_index(y[block], self.axis)
                if start:
                    earlier = self.max_indices[pooled_block]
                    indices = torch.where(block_value > values, indices + start, earlier)
                    block_value = torch.maximum(values, block_value)
                self.max_indices[pooled_block] = indices
                values.copy_(block_value)
        if 'avg' in self.pools:
            self.pooled[:, self.pools.index('avg')] /= y.shape[self.axis]
        # Detached aliases: hooks of the parameters then run once, in the outer backward pass, and
        # saved tensors are kept even if the outer pass is checkpointed.
        self.pooled.requires_grad_()
        self.parameters = {
            name: value.detach().requires_grad_() for name, value in self.parameters.items()
        }
        as_saved = torch.autograd.graph.saved_tensors_hooks(with_version, if_unchanged)
        with torch.enable_grad(), as_saved:
            self.weights = self.function(self.pooled, self.parameters).unsqueeze(self.axis)
        return self.weights.detach()

    def backward(self, grad: Tensor, size: int) -> tuple[Tensor, Tensor, Sequence[Tensor | None]]:
        """Compute gradients from that of the weights.

        Returns:
            The gradient of each averaged element (the mean is over `size` of them), that of each
            maximum, both with size 1 along `axis`, and those of the parameters.
        """
        pooled, *parameters = torch.autograd.grad(
            self.weights,
            (self.pooled, *self.parameters.values()),
            grad.to(self.weights.dtype),
            retain_graph=True,  # the outer backward pass may run more than once
            allow_unused=True,
        )
        zero = pooled.new_zeros(1, 1, 1)
        pool_grads = dict(zip(self.pools, pooled.unsqueeze(self.axis + 1).unbind(1), strict=True))
        return pool_grads.get('avg', zero) / size, pool_grads.get('max', zero), parameters


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        norm_input: NormInput | None,
        gates: Sequence[GatePass],
        parallel: bool,
        *_: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(*([x] if norm_input is None else norm_input.tensors))
        ctx.compute_x = None if norm_input is None else norm_input.norm_output
        ctx.gates, ctx.parallel = gates, parallel
        return _forward(x, gates, parallel)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # a second derivative would silently be incomplete
            raise RuntimeError(
                'the memory-efficient CBAM has no second derivative; set memory_efficient=False'
            )
        x, *others = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            x = x if ctx.compute_x is None else ctx.compute_x(x, *others)
            return _backward(x, g, ctx.gates, ctx.parallel, ctx.needs_input_grad[0])


def _forward(x: Tensor, gates: Sequence[GatePass], parallel: bool) -> Tensor:
    out = torch.empty_like(x)
    x, y = _flat(x), _flat(out)

    def scale(a: Tensor, weights: Tensor, block: Block) -> None:
        torch.mul(a[block], _at(weights, block).to(a.dtype), out=y[block])

    first_gate, *others = gates
    u = first_gate.compute_weights(x)
    v = None
    for second_gate in others:
        if parallel:
            v = second_gate.compute_weights(x)
        else:
            v = second_gate.compute_weights(y, lambda block: scale(x, u, block))
    for block in _blocks(x):
        if parallel or v is None:
            scale(x, u, block)
        if v is not None:
            scale(y, v, block)
    return out


def _backward(
    x: Tensor, g: Tensor, gates: Sequence[GatePass], parallel: bool, needs_dx: bool
) -> tuple[Tensor | None, ...]:
    dx = torch.empty_like(x) if needs_dx else None
    layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
    g = _flat(g.contiguous(memory_format=layout))
    x, out = _flat(x), _flat(dx) if dx is not None else None
    first_gate, *others = gates
    wide, along = wide_type(x), 3 - first_gate.axis  # the axis of the first gate's weights
    u = first_gate.weights.detach().to(wide)
    v = others[0].weights.detach().to(wide) if others else u.new_ones(x.narrow(along, 0, 1).shape)
    du, dv = torch.zeros_like(u), torch.zeros_like(v)
    for block in _blocks(x):
        # dx is not needed until the last pass; new memory would cost more than the arithmetic.
        buffer = out[block] if out is not None and out.dtype == wide else None
        t = torch.mul(g[block].to(wide), x[block], out=buffer)
        _at(du, block).add_(_sum(t, _at(v, block), first_gate.axis))
        if others:
            _at(dv, block).add_(_sum(t, _at(u, block), along))

    r, max_grads = v.new_zeros(1, 1, 1), []
    grads: Sequence[Tensor | None] = []
    for second_gate in others:
        r, max_grad, grads = second_gate.backward(dv, x.shape[along])
        if not parallel and 'avg' in second_gate.pools:
            for block in _blocks(x):
                _at(du, block).add_(_sum(x[block].to(wide), _at(r, block), first_gate.axis))
        if 'max' in second_gate.pools:
            indices = second_gate.max_indices.unsqueeze(along)
            if not parallel:
                du.scatter_add_(along, indices.mT, (max_grad * x.gather(along, indices)).mT)
                max_grad = max_grad * u.gather(along, indices.mT).mT
            max_grads.append((along, indices, max_grad))
    q, max_grad, first_grads = first_gate.backward(du, x.shape[first_gate.axis])
    if 'max' in first_gate.pools:
        indices = first_gate.max_indices.unsqueeze(first_gate.axis)
        max_grads.append((first_gate.axis, indices, max_grad))

    if out is not None:
        for block in _blocks(x):
            dx_block = out[block]
            if parallel:
                torch.mul(g[block], _at(v, block), out=dx_block)
                torch.addcmul(_at(q, block) + _at(r, block), dx_block, _at(u, block), out=dx_block)
            else:
                torch.addcmul(_at(r, block), g[block].to(wide), _at(v, block), out=dx_block)
                torch.addcmul(_at(q, block), dx_block.to(wide), _at(u, block), out=dx_block)
        for axis, indices, max_grad in max_grads:
            out.scatter_add_(axis, indices, max_grad.to(out.dtype))
    return (dx, None, None, None, *first_grads, *grads)


def _sum(t: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Sum (n, C, p) times weights over `axis`, the axis of the weights, and keep it with size 1."""
    if not t.is_cpu:  # a GPU may round matrix products to TF32
        return (t * weights).sum(axis, keepdim=True)
    return torch.bmm(weights, t.mT).mT if axis == 2 else torch.bmm(weights.mT, t)


def _flat(x: Tensor) -> Tensor:
    """(N, C, H, W), contiguous or channels last, -> a view, (N, C, P)."""
    if x.is_contiguous():
        return x.flatten(2)
    return x.permute(0, 2, 3, 1).flatten(1, 2).transpose(1, 2)


def _at(weights: Tensor, block: Block) -> Tensor:
    """The part of weights (N, C, 1) or (N, 1, P) for a block of (N, C, P); a view."""
    return weights[
        tuple(
            part if size > 1 else slice(None)
            for part, size in zip(block, weights.shape, strict=True)
        )
    ]


def _blocks(x: Tensor) -> Iterator[Block]:
    """Blocks of (N, C, P) that are contiguous in memory: several images, or a part of one."""
    whole = slice(None)
    image_bytes = max(1, math.prod(x.shape[1:]) * x.element_size())
    block_bytes = BLOCK[x.device.type]
    images_per_block = max(1, block_bytes // image_bytes)
    axis = 1 if x.is_contiguous() else 2
    size = x.shape[axis]
    step = max(1, math.ceil(size / math.ceil(image_bytes / block_bytes)))
    for first_image in range(0, len(x), images_per_block):
        for start in range(0, size, step):
            part = slice(start, start + step)
            images = slice(first_image, first_image + images_per_block)
            yield (images, part, whole) if axis == 1 else (images, whole, part)
