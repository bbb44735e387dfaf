"""The attention modules of a built model, and the state of their gates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from .insertion import Inserted
from .layers import CBAM


def named_cbams(model: nn.Module) -> Iterator[tuple[str, CBAM]]:
    """Yield the path and the module of each CBAM in a model."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, CBAM))


def at_start(weights: Iterable[Tensor | np.ndarray]) -> bool:
    """Whether all gate weights are 1.00, as after the identity start: the attention still changes
    nothing.
    """
    return all(float((torch.as_tensor(gate) - 1).abs().max()) < 0.005 for gate in weights)


def named_plugins(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the path and the module of each plugin: CBAMs, what `insert` added, mmdet's own."""
    plugins = set()
    for module in model.modules():
        if isinstance(module, Inserted):
            plugins |= {plugin for place in module.children() for plugin in place.children()}
        for position in ('after_conv1', 'after_conv2', 'after_conv3'):
            names = getattr(module, f'{position}_plugin_names', ())
            plugins |= {getattr(module, name) for name in names}
    for name, module in model.named_modules():
        if module in plugins or isinstance(module, CBAM):
            yield name, module


def has_doubled_gates(cbam: CBAM) -> bool:
    """Whether the gate weights are in (0, 2), as with the identity start, not in (0, 1)."""
    return any(gate.gain is not None for gate in (cbam.channel_gate, cbam.spatial_gate) if gate)
