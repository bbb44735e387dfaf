"""Autograd's check that no saved tensor is changed in place, for tensors that are saved by hand."""

from __future__ import annotations

from torch import Tensor


def with_version(tensor: Tensor) -> tuple[Tensor, int]:
    """What `if_unchanged` takes: the tensor, without its history, and its version."""
    return tensor.detach(), tensor._version


def if_unchanged(saved: tuple[Tensor, int]) -> Tensor:
    """The saved tensor.

    Raises:
        RuntimeError: it was changed in place since; the message begins as autograd's.
    """
    tensor, version = saved
    if tensor._version != version:
        raise RuntimeError(
            'one of the variables needed for gradient computation has been modified by an inplace '
            f'operation: [{tensor.type()} {list(tensor.shape)}] is at version {tensor._version}; '
            f'expected version {version} instead. Call backward before the change'
        )
    return tensor
