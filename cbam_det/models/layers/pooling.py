"""The pooling equations of CBAM on plain tensors. This file needs only torch.

Paper: Woo et al., CBAM, ECCV 2018, section 3 (arXiv 1807.06521).

    N batch, C channels, H x W pixels, P pools

Deviations: 'max' is `amax`, which divides the gradient equally among tied maxima (max pooling gives
it to the first of them, memory_efficient.py to one of them). 'lp' has gradient 0, not NaN, where
the whole map is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from .torch_private import inside_torch_func, is_compiling, is_fusing

POOLS = ('avg', 'max', 'lp', 'lse')
PART = 2**20  # how many float16 or bfloat16 numbers are converted to float32 at once


def full_precision(x: Tensor) -> AbstractContextManager:
    """Turn autocast off: it would round the pooled numbers to float16 or bfloat16."""
    if isinstance(x, Tensor) and x.device.type in ('cpu', 'cuda'):
        return torch.autocast(x.device.type, enabled=False)
    return nullcontext()


def is_traced(x: Tensor) -> bool:
    """Whether torch traces or transforms the code: `torch.compile`, a tracer, an export,
    `torch.func`, or a subclass of Tensor.
    """
    return (
        is_compiling()
        or torch.jit.is_tracing()
        or type(x) not in (Tensor, torch.nn.Parameter)
        or inside_torch_func()
    )


def wide_type(x: Tensor) -> torch.dtype:
    """The dtype for sums: float32 for float16 and bfloat16, otherwise that of `x`."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def pool(x: Tensor, kind: str, dim: int | tuple[int, ...], keepdim: bool = False) -> Tensor:
    """Reduce `x` over `dim`.

    Args:
        x: feature map (N, C, H, W) of any float dtype. float16 and bfloat16 are summed in float32.
        kind: 'avg' mean, 'max' maximum, 'lp' L2 norm, 'lse' log of the sum of exponentials
            ('lp' and 'lse' are `lp_pool` and `lse` in the authors' CBAM).
        dim: axes to reduce: (2, 3) in the channel gate, 1 in the spatial gate.
        keepdim: keep the reduced axes with size 1.

    Returns:
        A tensor in float32 for float16 and bfloat16, otherwise in the dtype of `x`.

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
    """The mean. On a CPU torch converts a float16 or bfloat16 map to float32 before it sums.

    Without gradient this is done in parts along another axis, which takes less memory.
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
    """(N, C, H, W) -> (N, P, C): one number per channel and pool, F_avg^c and F_max^c in eq. 2."""
    pooled = [pool(x, kind, (2, 3)) for kind in pools]
    if is_fusing():  # results next to each other are computed in one loop, which reads x once
        return torch.stack(pooled).transpose(0, 1)
    return torch.stack(pooled, dim=1)


def pool_channels(x: Tensor, pools: Sequence[str]) -> Tensor:
    """(N, C, H, W) -> (N, P, H, W): one map per pool, F_avg^s and F_max^s in equation 3."""
    return torch.cat([pool(x, kind, 1, keepdim=True) for kind in pools], dim=1)
