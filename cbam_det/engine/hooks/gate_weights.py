"""Record the weights that a model's CBAMs compute in training."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ...models.attention_modules import at_start, has_doubled_gates, named_cbams
from ...models.built_model import in_eval_mode
from ...models.layers import CBAM
from ...models.layers.torch_private import RunUncompiled


class GateWeights:
    """Records the weights of each CBAM in its next forward pass, until `close()`.

    The statistics of the norms are not updated by it.

    Args:
        model: a model with CBAMs.
    """

    def __init__(self, model: nn.Module) -> None:
        self.trainable: set[str] = set()
        # Of each CBAM its gates: 'channel' or 'spatial', the weights, the largest possible weight.
        self.gates: dict[str, list[tuple[str, Tensor, float]]] = {}
        self.handles: list = []
        for name, cbam in named_cbams(model):
            if any(value.requires_grad for value in cbam.parameters()):
                self.trainable.add(name)
            record = partial(_record, self.gates, name)
            self.handles += [cbam.register_forward_pre_hook(record), RunUncompiled(cbam)]

    def unchanged(self) -> bool:
        """Whether all trainable gates have the identity start and all of their weights are 1.00."""
        gates = [gate for name in self.trainable for gate in self.gates.get(name, ())]
        doubled = [weights for _, weights, maximum in gates if maximum == 2]
        return bool(doubled) and len(doubled) == len(gates) and at_start(doubled)

    def saturated(self, limit: float) -> list[tuple[str, str, float, Tensor]]:
        """The gates of which more than 90% of the weights are near an end of their range.

        Args:
            limit: a weight is near an end below `1 - limit` or above `limit` of its range.

        Returns:
            For each gate the name of its CBAM, 'channel' or 'spatial', the share of these weights
            and all weights.
        """
        near_ends = []
        for name, gates in self.gates.items():
            for kind, weights, maximum in gates:
                position = weights / maximum
                near_end = (position < 1 - limit) | (position > limit)
                share = near_end.float().mean().item()
                if share > 0.9:
                    near_ends.append((name, kind, share, weights))
        return near_ends

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self.handles:
            handle.remove()
        self.handles = []


def _record(gates: dict, name: str, cbam: CBAM, args: tuple) -> None:
    """By `partial` a hook before a forward pass."""
    if name in gates:
        return  # the second pass of a shared head or of a checkpointed block
    x = args[0].detach().float()
    maximum = 2.0 if has_doubled_gates(cbam) else 1.0
    # Without autocast, which would cache casts of the parameters that have no gradients.
    without_autocast = torch.autocast(x.device.type, enabled=False)
    with in_eval_mode(cbam), torch.no_grad(), without_autocast:
        weights = cbam.gates(x)
    gates[name] = [(kind, value.cpu(), maximum) for kind, value in weights.items()]
