"""The pooling and gating equations of CBAM, on plain tensors; this file imports torch alone.

Paper: Woo et al., CBAM, ECCV 2018, section 3 (arXiv 1807.06521).

    N batch, C channels, H x W pixels, P pools chosen, K kernel size

Deviation: 'max' is `amax`, whose gradient is shared equally among tied maxima (max pooling gives
all of it to the first, the pass of memory_efficient.py to one); 'lp' has gradient 0, not NaN, where
the whole map is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

try:
    from torch.compiler import is_compiling
except ImportError:  # torch < 2.3
    from torch._dynamo import is_compiling

POOLS = ('avg', 'max', 'lp', 'lse')
PART = 2**20  # numbers of a half type that are copied to float32 at once


def full_precision(x: Tensor) -> AbstractContextManager:
    """No autocast: it would round the pooled numbers, which are few, to half a type."""
    if isinstance(x, Tensor) and x.device.type in ('cpu', 'cuda'):
        return torch.autocast(x.device.type, enabled=False)
    return nullcontext()


def is_traced(x: Tensor) -> bool:
    """Whether torch is reading the equations: `torch.compile`, a tracer, an export, `torch.func`,
    or a type of tensor of their own.
    """
    return (
        is_compiling()
        or torch.jit.is_tracing()
        or type(x) not in (Tensor, torch.nn.Parameter)
        or torch._C._are_functorch_transforms_active()
    )


def wide_type(x: Tensor) -> torch.dtype:
    """The type to sum in: float32 for half types, else that of `x`."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def pool(x: Tensor, kind: str, dim: int | tuple[int, ...], keepdim: bool = False) -> Tensor:
    """Reduce `x` over `dim`.

    Args:
        x: feature map, (N, C, H, W); any float type. Half types are summed in float32.
        kind: 'avg' mean, 'max' maximum, 'lp' L2 norm, 'lse' log of the sum of exponentials
            ('lp' and 'lse' are the authors' `lp_pool` and `lse` of `model_resnet.py`'s CBAM).
        dim: axes to reduce: (2, 3) for the channel gate, 1 for the spatial gate.
        keepdim: keep the reduced axes with size 1.

    Returns:
        float32 for half inputs, else the type of `x`.

    Raises:
        ValueError: unknown `kind`.
    """
    wide = wide_type(x)
    if kind == 'avg':
        return _mean(x, dim, keepdim, wide)
    if kind == 'max':
        return x.amax(dim, keepdim=keepdim).to(wide)
    if kind == 'lp':
        return torch.linalg.vector_norm(x, 2, dim, keepdim=keepdim, dtype=wide)
    if kind == 'lse':
        return torch.logsumexp(x.to(wide), dim, keepdim=keepdim)
    raise ValueError(f'pool {kind!r} is unknown; choose from {", ".join(POOLS)}')


def _mean(x: Tensor, dim: int | tuple[int, ...], keepdim: bool, wide: torch.dtype) -> Tensor:
    """On a CPU torch copies a map of a half type to sum it; without gradient that is done in parts
    along an axis that stays.
    """
    whole = torch.is_grad_enabled() or is_compiling() or torch.jit.is_tracing()
    if wide is x.dtype or not x.is_cpu or whole or x.numel() <= PART:
        return x.mean(dim, keepdim=keepdim, dtype=wide)
    axis = 2 if dim == 1 else 1
    step = max(1, PART * x.shape[axis] // x.numel())
    parts = [part.mean(dim, keepdim=True, dtype=wide) for part in x.split(step, axis)]
    means = torch.cat(parts, axis)
    return means if keepdim else means.squeeze(dim)


def pool_space(x: Tensor, pools: Sequence[str]) -> Tensor:
    """One number per channel and pool, equation 2's F_avg^c and F_max^c: (N,C,H,W) -> (N,P,C)."""
    return torch.stack([pool(x, kind, (2, 3)) for kind in pools], dim=1)


def pool_channels(x: Tensor, pools: Sequence[str]) -> Tensor:
    """One map per pool, equation 3's F_avg^s and F_max^s: (N,C,H,W) -> (N,P,H,W)."""
    return torch.cat([pool(x, kind, 1, keepdim=True) for kind in pools], dim=1)
