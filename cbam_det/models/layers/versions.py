"""Autograd's check that no saved tensor was changed in place, for tensors saved outside of it."""

from __future__ import annotations

from torch import Tensor

from .torch_private import version


def with_version(tensor: Tensor) -> tuple[Tensor, int]:
    """The detached tensor and its version, for `if_unchanged`."""
    return tensor.detach(), version(tensor)


def if_unchanged(saved: tuple[Tensor, int]) -> Tensor:
    """Return the saved tensor.

    Raises:
        RuntimeError: it was changed in place after it was saved; the message is autograd's.
    """
    tensor, saved_version = saved
    if version(tensor) != saved_version:
        raise RuntimeError(
            'one of the variables needed for gradient computation has been modified by an inplace '
            f'operation: [{tensor.type()} {list(tensor.shape)}] is at version {version(tensor)}; '
            f'expected version {saved_version} instead. Call backward before you change it'
        )
    return tensor
