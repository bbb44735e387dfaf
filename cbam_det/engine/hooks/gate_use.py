"""Check that the attention of a model is used: each gate runs and receives a gradient."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

from ...models.attention_modules import named_plugins
from ...models.layers import CBAM
from ...models.layers.torch_private import RunUncompiled


class GateUse:
    """Watches the plugins of a model by hooks until `close()`.

    A plugin without a gradient, or one that the model bypasses (MMEngine's `efficient_conv_bn_eval`
    computes a norm without its hooks), does not train, but nothing fails.

    Args:
        model: a model with CBAMs or other plugins.
        gradients: check gradients, too: whether each trainable gate receives one. It may be 0, as
            some are at the identity start.
    """

    def __init__(self, model: nn.Module, gradients: bool) -> None:
        plugins = dict(named_plugins(model))
        self.parents = {name: parent_of(name) for name in plugins}
        self.ran: set[str] = set()
        self.graded: set[str] = set()
        self.trainable: set[str] = set()
        self.handles: list = []
        modules = dict(model.named_modules())
        for name in {*plugins, *self.parents.values()}:
            record = partial(_record_name, self.ran, name)
            self.handles.append(modules[name].register_forward_pre_hook(record))
        for name, plugin in plugins.items():
            self.handles.append(RunUncompiled(plugin))
            for gate, part in _gates(name, plugin).items() if gradients else ():
                for value in part.parameters():
                    if value.requires_grad:
                        self.trainable.add(gate)
                        self.handles.append(
                            value.register_hook(partial(_record_name, self.graded, gate))
                        )

    def not_run(self) -> list[str]:
        """The plugins that have not run although their parent modules have."""
        return [
            name
            for name, parent in self.parents.items()
            if parent in self.ran - {name} and name not in self.ran
        ]

    def idle(self) -> list[str]:
        """The plugins that have not run and whose parent modules have not run either."""
        return [name for name, parent in self.parents.items() if not {name, parent} & self.ran]

    def without_gradient(self) -> list[str]:
        """The trainable gates that have not received a gradient."""
        return sorted(self.trainable - self.graded)

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self.handles:
            handle.remove()
        self.handles = []


def _record_name(names: set[str], name: str, *args: Tensor | nn.Module | tuple) -> None:
    """By `partial` a hook before a forward pass, or on a gradient."""
    names.add(name)


def parent_of(name: str) -> str:
    """The module that contains a plugin: 'backbone' for backbone.inserted.layer1/0/bn3.cbam."""
    parts = name.split('.')
    end = parts.index('inserted') if 'inserted' in parts else len(parts) - 1
    return '.'.join(parts[:end])


def _gates(name: str, plugin: nn.Module) -> Mapping[str, nn.Module]:
    if isinstance(plugin, CBAM):
        return {f'{name}.{gate.name}_gate': gate for gate in plugin.sequence()}
    return {name: plugin}
