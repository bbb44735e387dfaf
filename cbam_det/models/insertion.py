"""Plugins after any module of any backbone, neck or head, by config.

mmdet's own `plugins=` exists for bottleneck ResNets alone. `WithPlugins` builds any host and hangs
plugins behind its modules: at the paper's places, or behind those that a pattern names::

    backbone=dict(
        type='WithPlugins',
        base_type='ResNet',
        depth=18,
        plugins=[dict(cfg=dict(type='CBAM'))],  # or with after='layer4.*.bn2'
    )

The object is the host's own, with its state-dict keys unchanged, so that its pretrained weights
load. The plugins are its child `inserted`, one key per place, run by forward hooks. They stand
outside the stages: `frozen_stages` does not freeze them, a `Sequential` does not run them twice,
and `init_weights` reaches them.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from itertools import chain

import torch
from mmcv.cnn import build_plugin_layer
from mmengine.model import ModuleDict
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..utils.errors import InputError, first_few
from .compat import fix_ssd_heads
from .paper_places import in_stages, patterns_of

ITSELF = '.'  # the pattern for the host's own output


@MODELS.register_module()
def WithPlugins(
    base_type: str | type, plugins: Sequence[dict] | None = None, **options
) -> nn.Module:
    """Build a host and insert plugins after its modules.

    Args:
        base_type: the host's name in the registry, 'ResNet' or 'FPN', say, or its class; where the
            scope of the config has no such host, with that of another library: in mmrotate it is
            'mmdet.ResNet'.
        plugins: dictionaries with `cfg`, the plugin's config, whose `in_channels` is found out.
            `after` is a pattern of module names or several: `*` stands for a part of a name between
            dots, `**` for any number of parts, '.' for the host itself. Without it the plugin goes
            to the paper's places (paper_places.py). `stages`, one boolean a stage as in mmdet,
            keeps the places in those stages. Several plugins at one place run in the order given.
            Entries with `position` are passed to the host.
        options: the host's own options.

    Returns:
        The host, with the plugins in its child `inserted`.

    Raises:
        InputError: a pattern matches nothing, the paper has no place in such a host, a module's
            output is no feature map (N, C, H, W), or its channels cannot be found out; the message
            lists near names.
    """
    inserted = [plugin for plugin in plugins or () if 'position' not in plugin]
    passed_on = [plugin for plugin in plugins or () if 'position' in plugin]
    name = getattr(base_type, '__name__', base_type)
    if passed_on:
        host_type = _registered(base_type)
        if inspect.isclass(host_type) and 'plugins' not in inspect.signature(host_type).parameters:
            raise InputError(
                f"position={passed_on[0]['position']!r} is for mmdet's bottleneck ResNets; "
                f"{name} takes after, a pattern of module names, or nothing for the paper's place"
            )
        options['plugins'] = passed_on
    for plugin in plugins or ():
        kind = plugin.get('cfg', {}).get('type')
        if isinstance(kind, str) and _registered(kind) is None:
            raise InputError(
                f"no plugin {kind!r} is registered; check its spelling ('CBAM'), or import its "
                'module with custom_imports'
            )
    if isinstance(base_type, str) and _registered(base_type) is None:
        scopes = [scope for scope, one in MODELS.children.items() if base_type in one.module_dict]
        if scopes:
            raise InputError(
                f'base_type={base_type!r} is not registered in this scope; write '
                f"base_type='{scopes[0]}.{base_type}'"
            )
    fix_ssd_heads()
    host = MODELS.build(dict(type=base_type, **options))
    return insert(host, inserted, options.get('in_channels'))


def _registered(name: str | type) -> Callable | None:
    """What `MODELS.build` finds by that name, in the scope of the config; None if nothing."""
    if not isinstance(name, str):
        return name
    with MODELS.switch_scope_and_registry(None) as registry:
        return registry.get(name)


def insert(
    host: nn.Module, plugins: Sequence[dict], in_channels: int | Sequence[int] | None = None
) -> nn.Module:
    """Insert `plugins` (see `WithPlugins`) into `host`, and return it.

    Args:
        host: a backbone, neck or head.
        plugins: entries with `cfg`, `after` and `stages`; the latter two may be left out.
        in_channels: of the host's input, one number a level, where it keeps none as attribute.
    """
    entries: list[tuple[str, dict]] = []
    for plugin in plugins:
        if unknown := set(plugin) - {'cfg', 'after', 'stages'}:
            raise InputError(
                f'plugin option {first_few(sorted(unknown))} is unknown; an entry has cfg, after '
                'and stages'
            )
        entries += [(name, plugin['cfg']) for name in _places_of(host, **plugin)]
    if not entries:
        return host
    names = list(dict.fromkeys(name for name, _ in entries))
    channels = find_channels(host, names, in_channels)
    # ModuleDict takes no dots, and underscores would make one key of a.b_c and a_b.c.
    host.inserted = Inserted({_place_key(name): ModuleDict() for name in names})
    with _fork_rng():
        for name, cfg in entries:
            place = host.inserted[_place_key(name)]
            attribute, plugin = build_plugin_layer({'in_channels': channels[name], **cfg})
            duplicates = sum(existing.rstrip('0123456789') == attribute for existing in place)
            place[f'{attribute}{duplicates + 1}' if duplicates else attribute] = plugin
    for name in names:
        _register_plugin_hook(host, name)
    # Conversions (SyncBatchNorm, quantisation) put new modules in place of old ones, without their
    # hooks; before each forward the host looks after that.
    host.register_forward_pre_hook(_RestoreHooks(names))
    return host


def places(host: nn.Module) -> Iterator[str]:
    """The names that a pattern can match: every module of the host, and '.' for itself."""
    for name, _ in host.named_modules():
        if not name.startswith('inserted'):
            yield name or ITSELF


def match(host: nn.Module, after: str | Sequence[str]) -> list[str]:
    """The modules of `host` that the pattern or patterns name, in the host's order.

    Raises:
        InputError: a pattern matches nothing; near names are listed.
    """
    names = list(places(host))
    matched = set()
    for pattern in [after] if isinstance(after, str) else after:
        hits = {name for name in names if _matches_pattern(name, pattern)}
        hits |= {ITSELF} & {pattern}
        if not hits:
            near_names = difflib.get_close_matches(pattern, names, 5, 0.4) or names[:5]
            ignoring_dots = any(fnmatchcase(name, pattern) for name in names)
            hint = " (* is one part of a name; 'layer*.*.bn2' has three, '**' any number)"
            raise InputError(
                f'after={pattern!r} matches no module of {type(host).__name__}'
                f'{hint if ignoring_dots else ""}; near names: {first_few(near_names, 5)}'
            )
        matched |= hits
    return [name for name in names if name in matched]


def _places_of(
    host: nn.Module,
    cfg: dict,
    after: str | Sequence[str] | None = None,
    stages: Sequence[bool] | None = None,
) -> list[str]:
    """The modules after which an entry of `plugins` goes."""
    names = paper_places(host) if after is None else match(host, after)
    if stages is None:
        return names
    chosen = in_stages(host, names, stages)
    if not chosen:
        raise InputError(f'stages={tuple(stages)} leaves no place of {first_few(names, 5)}')
    return chosen


def paper_places(host: nn.Module) -> list[str]:
    """The modules of `host` after which the paper has its attention, in the host's order.

    Raises:
        InputError: no place is known for such a host, or it has none of them.
    """
    choices = [choice if isinstance(choice, tuple) else (choice,) for choice in patterns_of(host)]
    matched: set[str] = set()
    names = list(places(host))
    for choice in choices:
        hits = ({name for name in names if _matches_pattern(name, pattern)} for pattern in choice)
        matched |= next(filter(None, hits), set())
    if not matched:
        raise InputError(
            f'this {type(host).__name__} has none of the places of its family '
            f'({first_few([*chain(*choices)])}); give after, a pattern '
            'of module names (tools/places.py lists them)'
        )
    return [name for name in names if name in matched]


def _matches_pattern(name: str, pattern: str) -> bool:
    return _parts_match(name.split('.'), pattern.split('.'))


def _parts_match(parts: list[str], pattern: list[str]) -> bool:
    if not pattern or not parts:
        return not parts and all(part == '**' for part in pattern)
    if pattern[0] == '**':
        return _parts_match(parts, pattern[1:]) or _parts_match(parts[1:], pattern)
    return fnmatchcase(parts[0], pattern[0]) and _parts_match(parts[1:], pattern[1:])


def find_channels(
    host: nn.Module, names: Sequence[str], in_channels: int | Sequence[int] | None = None
) -> dict[str, int]:
    """C of each named module's output, seen in a forward of `host` on an empty input.

    Where the host cannot be run on its own, the modules' own `out_channels` or `num_features`.

    Raises:
        InputError: an output is no feature map, or C cannot be found out.
    """
    outputs: dict[str, object] = {}
    hooks = [
        _get_module(host, name).register_forward_hook(RecordOutput(outputs, name)) for name in names
    ]
    modes = {module: module.training for module in host.modules()}
    host.eval()
    for size in (4, 32):  # 32 where a neck goes down further than 4 pixels allow
        try:
            with torch.no_grad():
                host(_dummy_input(host, in_channels, size))
            break
        except Exception:
            outputs.clear()  # a host with other inputs: ask its modules
    for hook in hooks:
        hook.remove()
    for module, mode in modes.items():
        module.training = mode
    return {name: _output_channels(host, name, outputs) for name in names}


def _dummy_input(
    host: nn.Module, channels: int | Sequence[int] | None, size: int
) -> Tensor | tuple[Tensor, ...]:
    """A small input: a pyramid for a neck or a dense head, its top `size` wide; else an image, of
    `channels`, of the host's own `in_channels`, or of 3.
    """
    if channels is None:
        channels = getattr(host, 'in_channels', 3)
    priors = getattr(host, 'prior_generator', None)
    if isinstance(channels, int) and priors is not None:
        channels = [channels] * priors.num_levels
    if isinstance(channels, (list, tuple)):
        sides = [size * 2**level for level in range(len(channels) - 1, -1, -1)]
        return tuple(
            torch.zeros(1, count, side, side) for count, side in zip(channels, sides, strict=True)
        )
    depth = channels if isinstance(channels, int) else 3
    side = 224 if depth < 16 else 32  # an image, or a feature map
    return torch.zeros(1, depth, side, side)


def _output_channels(host: nn.Module, name: str, outputs: dict[str, object]) -> int:
    module = _get_module(host, name)
    where = f'{type(host).__name__}, after={name!r}'
    if name in outputs:
        output = outputs[name]
        if not isinstance(output, Tensor) or output.dim() != 4:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InputError(
                f'{where}: the output is {shape}, no feature map (N, C, H, W); name a module '
                f'whose output is one: {first_few(_leaves_inside(host, name), 5)}'
            )
        return output.shape[1]
    for attribute in ('out_channels', 'num_features', 'num_channels'):
        if isinstance(getattr(module, attribute, None), int):
            return getattr(module, attribute)
    raise InputError(
        f'{where}: the channels of its {type(module).__name__} cannot be found out; give '
        'in_channels in cfg, or name a convolution or norm in it'
    )


def _leaves_inside(host: nn.Module, name: str) -> list[str]:
    prefix = '' if name == ITSELF else f'{name}.'
    return [
        inner
        for inner in places(host)
        if inner.startswith(prefix)
        and inner != name
        and not list(_get_module(host, inner).children())
    ] or ['(none)']


def _get_module(host: nn.Module, name: str) -> nn.Module:
    return host if name == ITSELF else host.get_submodule(name)


def _place_key(name: str) -> str:
    """A module's name as a key of `inserted`: 'layer1/0/bn2'."""
    return 'itself' if name == ITSELF else name.replace('.', '/')


def _fork_rng() -> AbstractContextManager:
    """What is drawn here does not count: the same seed gives the rest of a model the same start."""
    gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    return torch.random.fork_rng([torch.cuda.current_device()] if gpu else [])


class Inserted(ModuleDict):
    """The plugins of a host by place."""

    def init_weights(self) -> None:
        with _fork_rng():
            super().init_weights()


class RecordOutput:
    """A forward hook that notes the first output of its module under `key` in `outputs`."""

    def __init__(self, outputs: dict, key: str | nn.Module) -> None:
        self.outputs, self.key = outputs, key

    def __call__(self, module: nn.Module, args: tuple, output: object) -> None:
        self.outputs.setdefault(self.key, output)


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
    """The host's pre-hook, which hangs a place's hook again where its module was replaced."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __call__(self, host: nn.Module, args: tuple) -> None:
        if torch.compiler.is_compiling():
            return
        for name in self.names:
            hooks = _get_module(host, name)._forward_hooks.values()
            if not any(isinstance(hook, _PluginHook) for hook in hooks):
                _register_plugin_hook(host, name)


def _register_plugin_hook(host: nn.Module, name: str) -> None:
    module = _get_module(host, name)
    plugins = host.get_submodule('inserted').get_submodule(_place_key(name))
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
