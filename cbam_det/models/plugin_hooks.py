"""The forward hooks that run plugins after the modules of a component.

They are added again where a module is replaced.
"""

from __future__ import annotations

from mmengine.model import ModuleDict
from torch import Tensor, nn

from ..utils.errors import InputError
from .layers import CBAM
from .layers.norm_input import find_norm_input
from .layers.torch_private import forward_hooks, is_compiled, is_compiling

ITSELF = '.'  # the name of the component itself


def get_module(component: nn.Module, name: str) -> nn.Module:
    """The module of this name; '.' is the component itself."""
    return component if name == ITSELF else component.get_submodule(name)


def attach_plugins(component: nn.Module, places: dict[str, ModuleDict]) -> None:
    """Run the plugins of each place after the module of that name.

    Conversions (to SyncBatchNorm, quantisation) replace modules and lose their hooks. So pre-hooks
    check before each forward pass that the hooks are there. They are on the component and on every
    module between it and a place, because some components (RoI heads) are never called themselves.
    """
    for name, plugins in places.items():
        _attach(get_module(component, name), plugins, name)
    below: dict[str, dict[str, ModuleDict]] = {ITSELF: places}
    for name, plugins in places.items():
        parts = name.split('.') if name != ITSELF else []
        for depth in range(1, len(parts)):
            below.setdefault('.'.join(parts[:depth]), {})[name] = plugins
    for parent, inner in below.items():
        prefix = '' if parent == ITSELF else f'{parent}.'
        get_module(component, parent).register_forward_pre_hook(_RestoreHooks(inner, prefix))


class _PluginHook:
    """The forward hook of one place. It holds the plugins, so a deep copy runs its own copies."""

    def __init__(self, plugins: ModuleDict, name: str) -> None:
        self.plugins, self.name = plugins, name

    def __call__(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        if not isinstance(output, Tensor) or output.dim() != 4:
            raise InputError(
                f'the output of {self.name} is not a feature map (N, C, H, W); name another module '
                'in after'
            )
        source = find_norm_input(module, args, output)
        for plugin in self.plugins.values():
            if source is not None and _is_eager_cbam(plugin):
                output = plugin(output, norm_input=source)
            else:
                output = plugin(output)
            source = None  # the next plugin's input is not the norm's output
        return output


def _is_eager_cbam(plugin: nn.Module) -> bool:
    return type(plugin).forward is CBAM.forward and not is_compiled(plugin)


class _RestoreHooks:
    """A pre-hook that attaches plugins again where their module was replaced.

    Args:
        places: the plugins by the names of their modules in the component.
        prefix: the name of the module with this hook, with a dot; '' for the component itself.
    """

    def __init__(self, places: dict[str, ModuleDict], prefix: str) -> None:
        self.places, self.prefix = places, prefix

    def __call__(self, parent: nn.Module, args: tuple) -> None:
        if is_compiling():
            return
        for name, plugins in self.places.items():
            module = get_module(parent, name.removeprefix(self.prefix))
            # A deep copy of a module has copies of its plugins, which only the component can tell
            # from its own.
            _attach(module, plugins, name, keep_copies=bool(self.prefix))


def _attach(module: nn.Module, plugins: ModuleDict, name: str, keep_copies: bool = False) -> None:
    """Add the hook if it is missing. A hook with copies of the plugins is replaced, unless
    `keep_copies`.
    """
    hooks = forward_hooks(module)
    own = [
        key for key, hook in hooks.items() if isinstance(hook, _PluginHook) and hook.name == name
    ]
    if own and (keep_copies or hooks[own[0]].plugins is plugins):
        return
    for key in own:
        del hooks[key]
    module.register_forward_hook(_PluginHook(plugins, name))
    if name != ITSELF:  # the component's own repr shows them as a child
        module.extra_repr = _ReprWithPlugins(module, plugins)  # type: ignore[method-assign]


class _ReprWithPlugins:
    """Replaces a module's `extra_repr`, so that the printed model shows the plugins after it."""

    def __init__(self, module: nn.Module, plugins: nn.Module) -> None:
        self.module, self.plugins = module, plugins

    def __call__(self) -> str:
        own_repr = type(self.module).extra_repr(self.module)
        plugin_types = ', '.join(type(plugin).__name__ for plugin in self.plugins.children())
        return f'{own_repr}, then {plugin_types}' if own_repr else f'then {plugin_types}'
