"""The hooks that run plugins after modules of a host, and keep them where modules are replaced."""

from __future__ import annotations

import torch
from mmengine.model import ModuleDict
from torch import Tensor, nn

from ..utils.errors import InputError

ITSELF = '.'  # the name of the host itself


def get_module(host: nn.Module, name: str) -> nn.Module:
    """The module of that name, '.' for the host itself."""
    return host if name == ITSELF else host.get_submodule(name)


def hang_plugins(host: nn.Module, places: dict[str, ModuleDict]) -> None:
    """Let `host` run the plugins of each place after the module of that name.

    Conversions (SyncBatchNorm, quantisation) put new modules in the place of old ones, without
    their hooks. So the host, and every module between it and a place, looks after that before each
    forward: some hosts are never called themselves, RoI heads for one.
    """
    for name, plugins in places.items():
        _hang(get_module(host, name), plugins, name)
    below: dict[str, dict[str, ModuleDict]] = {ITSELF: places}
    for name, plugins in places.items():
        parts = name.split('.') if name != ITSELF else []
        for depth in range(1, len(parts)):
            below.setdefault('.'.join(parts[:depth]), {})[name] = plugins
    for parent, inner in below.items():
        prefix = '' if parent == ITSELF else f'{parent}.'
        get_module(host, parent).register_forward_pre_hook(_RestoreHooks(inner, prefix))


class _PluginHook:
    """The forward hook of one place; it holds its plugins, so that copies hold their copies."""

    def __init__(self, plugins: ModuleDict, name: str) -> None:
        self.plugins, self.name = plugins, name

    def __call__(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        if not isinstance(output, Tensor) or output.dim() != 4:
            raise InputError(f'the output of {self.name} is no feature map (N, C, H, W)')
        for plugin in self.plugins.values():
            output = plugin(output)
        return output


class _RestoreHooks:
    """The pre-hook that hangs a place's plugins again where its module was replaced.

    Args:
        places: the plugins by the names of their modules in the host.
        prefix: what those names begin with in the module that has this hook.
    """

    def __init__(self, places: dict[str, ModuleDict], prefix: str) -> None:
        self.places, self.prefix = places, prefix

    def __call__(self, parent: nn.Module, args: tuple) -> None:
        if torch.compiler.is_compiling():
            return
        for name, plugins in self.places.items():
            module = get_module(parent, name.removeprefix(self.prefix))
            # A copied module has copied plugins; the host alone knows which are its own.
            _hang(module, plugins, name, keep_copies=bool(self.prefix))


def _hang(module: nn.Module, plugins: ModuleDict, name: str, keep_copies: bool = False) -> None:
    """Once; in the place of the plugins that a copied module brings, unless `keep_copies`."""
    hooks = module._forward_hooks
    own = [
        key for key, hook in hooks.items() if isinstance(hook, _PluginHook) and hook.name == name
    ]
    if own and (keep_copies or hooks[own[0]].plugins is plugins):  # type: ignore[attr-defined]
        return
    for key in own:
        del hooks[key]
    module.register_forward_hook(_PluginHook(plugins, name))
    if name != ITSELF:  # which has the plugins as a child
        module.extra_repr = _ReprWithPlugins(module, plugins)  # type: ignore[method-assign]


class _ReprWithPlugins:
    """In the place of a module's `extra_repr`: what follows it is printed where it acts."""

    def __init__(self, module: nn.Module, plugins: nn.Module) -> None:
        self.module, self.plugins = module, plugins

    def __call__(self) -> str:
        own_repr = type(self.module).extra_repr(self.module)
        plugin_types = ', '.join(type(plugin).__name__ for plugin in self.plugins.children())
        return f'{own_repr}, then {plugin_types}' if own_repr else f'then {plugin_types}'
