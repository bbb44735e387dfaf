"""Checks of the module's options and input; the errors name the value and the remedy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .pooling import POOLS


def choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError if `value` is not one of `choices`."""
    if value not in choices:
        raise ValueError(f'{option}={value!r} is unknown; choose from {", ".join(choices)}')


def ratio(channels: int, ratio: int) -> None:
    """Raise ValueError if `channels // ratio` is not a valid number of hidden channels."""
    _check_positive_integer('in_channels', channels, 'the channels of the feature map, 1 or more')
    _check_positive_integer('ratio', ratio, 'a whole number, 1 or more')
    if ratio > channels:
        raise ValueError(
            f'ratio={ratio} leaves no hidden channel of {channels}; use ratio <= {channels}'
        )


def kernel(channels: int, size: int) -> None:
    """Raise ValueError if `size` is not a positive odd number."""
    _check_positive_integer('in_channels', channels, 'the channels of the feature map, 1 or more')
    _check_positive_integer('kernel_size', size, 'an odd number such as 3 or 7')
    if size % 2 == 0:
        raise ValueError(f'kernel_size={size} is even; use {size + 1}')


def norm(norm: nn.Module, start: str) -> None:
    """Raise ValueError if the norm has no weight that the identity start can set to 0."""
    has_no_norm = isinstance(norm, nn.Identity)
    if start == 'identity' and not has_no_norm and getattr(norm, 'weight', None) is None:
        raise ValueError(
            f"norm_cfg: {norm} has no weight, which start='identity' sets to 0; give it "
            'affine=True, or norm_cfg=None'
        )


def switches(**options: bool) -> None:
    """Raise ValueError if an option is neither True nor False."""
    for option, value in options.items():
        if not isinstance(value, bool):
            raise ValueError(f'{option}={value!r} is not valid; give True or False')


def memory_efficient(value: bool | None) -> None:
    """Raise ValueError if `value` is not valid for the option `memory_efficient`."""
    if value is not None and not isinstance(value, bool):
        raise ValueError(
            f'memory_efficient={value!r} is not valid; give True, False, or None for the faster'
        )


def pools(option: str, pools: Sequence[str] | str) -> tuple[str, ...]:
    """The pools as a tuple.

    Raises:
        ValueError: the list is empty, or a pool is unknown or given twice.
    """
    chosen = (pools,) if not isinstance(pools, (list, tuple)) else tuple(pools)
    is_known = all(pool in POOLS for pool in chosen)
    if not chosen or not is_known or len(set(chosen)) < len(chosen):
        raise ValueError(
            f'{option}={pools!r} is not valid; give one or more of {", ".join(POOLS)}, each once'
        )
    return chosen


def feature_map(x: Tensor, channels: int) -> None:
    """Raise ValueError if `x` is not (N, `channels`, H, W). Under a tracer, where sizes are not
    numbers, nothing is checked.
    """
    if torch.jit.is_tracing() or isinstance(x, torch.fx.Proxy):
        return
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(
            f'the input of this CBAM has the shape {tuple(x.shape)}; give it (N, '
            f'{channels}, H, W), or build it with the in_channels of the map'
        )


def _check_positive_integer(option: str, value: int, remedy: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f'{option}={value!r} is not valid; give {remedy}')
