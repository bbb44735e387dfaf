"""Whether the attention of a model is used: each gate runs, and gets a gradient."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ...models.attention_modules import named_plugins
from ...models.layers import CBAM


class GateUse:
    """Watches the plugins of a model by hooks, while they are needed.

    A plugin that runs where no gradient comes to it, or that an option goes past (MMEngine's
    `efficient_conv_bn_eval` computes a norm without its hooks), trains nothing, and nothing fails.

    Args:
        model: with CBAMs or other plugins.
        gradients: see whether each gate that can be trained gets a gradient, too. Their values do
            not count: at the identity start some are 0.
    """

    def __init__(self, model: nn.Module, gradients: bool) -> None:
        plugins = dict(named_plugins(model))
        self.hosts = {name: host_of(name) for name in plugins}
        self.ran: set[str] = set()
        self.graded: set[str] = set()
        self.trainable: set[str] = set()
        self.handles: list = []
        self.compiled: list = []
        modules = dict(model.named_modules())
        for name in {*plugins, *self.hosts.values()}:
            note = _Note(self.ran, name)
            self.handles.append(modules[name].register_forward_pre_hook(note))
        for name, plugin in plugins.items():
            # Compiled code does not know of a hook that came later.
            self.compiled.append((plugin, getattr(plugin, '_compiled_call_impl', None)))
            plugin._compiled_call_impl = None
            for gate, part in _gates(name, plugin).items() if gradients else ():
                for value in part.parameters():
                    if value.requires_grad:
                        self.trainable.add(gate)
                        self.handles.append(value.register_hook(_Note(self.graded, gate)))

    def not_run(self) -> list[str]:
        """The plugins that have not run, though their hosts have."""
        return [
            name
            for name, host in self.hosts.items()
            if host in self.ran - {name} and name not in self.ran
        ]

    def idle(self) -> list[str]:
        """The plugins whose hosts have not run either."""
        return [name for name, host in self.hosts.items() if not {name, host} & self.ran]

    def without_gradient(self) -> list[str]:
        """The gates that can be trained and have not got a gradient."""
        return sorted(self.trainable - self.graded)

    def close(self) -> None:
        """Take the hooks away."""
        for handle in self.handles:
            handle.remove()
        for plugin, compiled in self.compiled:
            plugin._compiled_call_impl = compiled
        self.handles, self.compiled = [], []


class _Note:
    """A hook, of a module before its forward or of a parameter's gradient, that notes a name."""

    def __init__(self, names: set[str], name: str) -> None:
        self.names, self.name = names, name

    def __call__(self, *args: Tensor | nn.Module | tuple) -> None:
        self.names.add(self.name)


def host_of(name: str) -> str:
    """The module that a plugin belongs to: 'backbone' for backbone.inserted.layer1/0/bn3.cbam."""
    parts = name.split('.')
    end = parts.index('inserted') if 'inserted' in parts else len(parts) - 1
    return '.'.join(parts[:end])


def _gates(name: str, plugin: nn.Module) -> Mapping[str, nn.Module]:
    if isinstance(plugin, CBAM):
        return {f'{name}.{gate.name}_gate': gate for gate in plugin.sequence()}
    return {name: plugin}
