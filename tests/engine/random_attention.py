"""Attention with random weights, and maps for it."""

from __future__ import annotations

import torch
from torch import nn

from cbam_det.models.layers import CBAM


def randomise(model: nn.Module) -> None:
    """Give the attention random weights; at its start some of its gradients are 0."""
    for module in model.modules():
        if isinstance(module, CBAM):
            for parameter in module.parameters():
                nn.init.normal_(parameter, 0, 0.3)


MAPS = torch.arange(2 * 2 * 4 * 6 * 6).view(2, 2, 4, 6, 6).sin()  # a batch for each process
