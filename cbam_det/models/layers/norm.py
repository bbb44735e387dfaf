"""The norm of the spatial gate, which has one channel and its own train or eval mode."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .torch_private import BatchNormBase


def normalise(maps: Tensor, norm: nn.Module) -> Tensor:
    """`norm(maps)`; BatchNorm uses its running statistics if the batch has only one value, from
    which it cannot compute others.
    """
    has_one_value = norm.training and maps.numel() <= 1
    if isinstance(norm, BatchNormBase) and not isinstance(norm, nn.SyncBatchNorm) and has_one_value:
        mean, variance = norm.running_mean, norm.running_var
        return F.batch_norm(maps, mean, variance, norm.weight, norm.bias, eps=norm.eps)
    return norm(maps)


class OwnNorm(nn.Module):
    """A module whose child `norm` is in eval mode only if the module is, or if `norm_eval` is set.

    Backbones with norm_eval=True call `eval()` of every BatchNorm in them, which would freeze the
    statistics of a new norm at their initial values. That call has no effect on this norm.
    """

    norm: nn.Module
    norm_eval = False

    def train(self, mode: bool = True) -> OwnNorm:
        """Set the mode."""
        super().train(mode)
        self.norm.train(mode and not self.norm_eval)
        return self

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Add a child. Conversions to SyncBatchNorm also call this, to replace the norm."""
        super().add_module(name, module)
        if name == 'norm' and module is not None:
            module.train(self.training and not self.norm_eval)
            module.eval = _KeepMode(module)  # type: ignore[method-assign]


class _KeepMode:
    """Replaces a module's `eval` by a call that changes nothing.

    It is a class so that deepcopy binds it to the copied module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self) -> nn.Module:
        return self.module
