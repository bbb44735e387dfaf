"""The base class of the channel gate and the spatial gate: pool a map, compute weights from it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import checks
from .pooling import full_precision


class Gate(nn.Module):
    """A gate of CBAM.

    Args:
        start: 'identity' or 'paper'.

    Attributes:
        name: 'channel' or 'spatial'.
        axis: the axis of (N, C, H * W) that is pooled.
        pools: the names of the pools, in order.
        gain: 2 with the identity start, because `2 * sigmoid(0)` is exactly 1; otherwise None. It
            is a buffer, so a checkpoint of one start does not load silently into the other.
    """

    name: str
    axis: int
    pools: tuple[str, ...]
    gain: Tensor | None

    def __init__(self, start: str) -> None:
        super().__init__()
        checks.choice('start', start, ('identity', 'paper'))
        self.register_buffer('gain', torch.tensor(2.0) if start == 'identity' else None)

    def pool(self, x: Tensor) -> Tensor:
        """Pool a feature map (N, C, H, W)."""
        raise NotImplementedError

    def logits(self, pooled: Tensor) -> Tensor:
        """Compute the weights before the sigmoid from the output of `pool`."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Initialise the gain, the biases, and the layers that options build."""
        for layer in (getattr(self, 'act', None), getattr(self, 'norm', None)):
            for module in layer.modules() if layer is not None else ():
                if hasattr(module, 'reset_parameters'):
                    module.reset_parameters()
        for name, parameter in self.named_parameters():
            if name.endswith('bias'):
                nn.init.zeros_(parameter)
        if self.gain is not None:
            nn.init.constant_(self.gain, 2)

    def forward(self, x: Tensor, pooled: bool = False) -> Tensor:
        """Compute the weights for a feature map (N, C, H, W).

        Args:
            x: the map, or with `pooled=True` the output of `pool` for it.
            pooled: see `x`.

        Returns:
            (N, C, 1, 1) from the channel gate, (N, 1, H, W) from the spatial gate, in the dtype of
            `x`, in (0, 1), or (0, 2) with the identity start. Under autocast they are computed in
            float32.
        """
        with full_precision(x):
            weights = torch.sigmoid(self.logits(x if pooled else self.pool(x)))
            if self.gain is not None:
                weights = self.gain.to(weights.dtype) * weights
            return weights.to(x.dtype)
