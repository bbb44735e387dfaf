"""The norm of the spatial gate, which has one channel and a mode of its own."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


def normalise(maps: Tensor, norm: nn.Module) -> Tensor:
    """`norm(maps)`; BatchNorm uses its running statistics where a batch has one value in all, of
    which there are no others.
    """
    has_one_value = norm.training and maps.numel() <= 1
    if isinstance(norm, _BatchNorm) and not isinstance(norm, nn.SyncBatchNorm) and has_one_value:
        mean, variance = norm.running_mean, norm.running_var
        return F.batch_norm(maps, mean, variance, norm.weight, norm.bias, eps=norm.eps)
    return norm(maps)


class OwnNorm(nn.Module):
    """A module whose child `norm` is in eval mode if the module is, or if `norm_eval` is set.

    Hosts with norm_eval call `eval()` of every BatchNorm below them, which would stop the
    statistics of a new norm at their start. That call does nothing here.
    """

    norm: nn.Module
    norm_eval = False

    def train(self, mode: bool = True) -> OwnNorm:
        """Set the mode."""
        super().train(mode)
        self.norm.train(mode and not self.norm_eval)
        return self

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Add a child. Conversions to SyncBatchNorm put theirs in the norm's place by this too."""
        super().add_module(name, module)
        if name == 'norm' and module is not None:
            module.train(self.training and not self.norm_eval)
            module.eval = _KeepMode(module)  # type: ignore[method-assign]


class _KeepMode:
    """In the place of a module's `eval`: the mode stays. A class, so that copies have their own."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self) -> nn.Module:
        return self.module
