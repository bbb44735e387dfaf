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
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from itertools import chain

import torch
from mmcv.cnn import build_plugin_layer
from mmengine.model import ModuleDict
from mmengine.registry import MODELS
from torch import nn

from ..utils.class_options import options_of
from ..utils.errors import InputError, first_few
from .channels import find_channels, places
from .compat import fix_ssd_heads
from .paper_places import in_stages, patterns_of
from .plugin_hooks import ITSELF, hang_plugins

EXAMPLE = "plugins=[dict(cfg=dict(type='CBAM'))]"


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
            Entries with `position` are passed to the host, which has its own meaning for `stages`.
        options: the host's own options.

    Returns:
        The host, with the plugins in its child `inserted`.

    Raises:
        InputError: an entry is not as above, a pattern matches nothing, the paper has no place in
            such a host, a module's output is no feature map (N, C, H, W), or its channels cannot be
            found out; the message lists near names.
    """
    plugins = () if plugins is None else plugins
    _check_entries(plugins, ('cfg', 'after', 'stages', 'position'))
    inserted = [plugin for plugin in plugins if 'position' not in plugin]
    passed_on = [plugin for plugin in plugins if 'position' in plugin]
    if isinstance(base_type, str) and _registered(base_type) is None:
        scopes = [scope for scope, one in MODELS.children.items() if base_type in one.module_dict]
        if scopes:
            raise InputError(
                f'base_type={base_type!r} is not registered in this scope; write '
                f"base_type='{scopes[0]}.{base_type}'"
            )
    fix_ssd_heads()
    if passed_on:
        host = _build_with_position(base_type, passed_on, options)
    else:
        host = MODELS.build(dict(type=base_type, **options))
    return insert(host, inserted, options.get('in_channels'))


def _build_with_position(base_type: str | type, plugins: list[dict], options: dict) -> nn.Module:
    """The host with the plugins that have mmdet's `position`."""
    host_type = _registered(base_type)
    name = getattr(base_type, '__name__', base_type)
    remedy = f"{name} takes after, a pattern of module names, or nothing for the paper's place"
    position = f'position={plugins[0]["position"]!r}'
    if inspect.isclass(host_type) and 'plugins' not in options_of(host_type)[0]:
        raise InputError(f"{position} is for mmdet's bottleneck ResNets; {remedy}")
    try:
        return MODELS.build(dict(type=base_type, plugins=plugins, **options))
    except AssertionError as error:  # mmdet's only way to refuse
        raise InputError(
            f'{name} cannot be built with {position} ({error or "refused by mmdet"}), which is for '
            f'bottleneck blocks (depth=50, 101 or 152), after_conv1 to after_conv3; {remedy}'
        ) from None


def _check_entries(
    plugins: Sequence[dict], options: Sequence[str] = ('cfg', 'after', 'stages')
) -> None:
    """Raise InputError where `plugins` are not entries as `WithPlugins` takes them."""
    if not isinstance(plugins, (list, tuple)):
        raise InputError(f'plugins={plugins!r} is not a list; give {EXAMPLE}')
    for index, plugin in enumerate(plugins):
        where = f'plugins[{index}]'
        if not isinstance(plugin, dict):
            raise InputError(f'{where}={plugin!r} is not a dictionary; give {EXAMPLE}')
        if {'position', 'after'} <= set(plugin):
            raise InputError(
                f'{where} has position={plugin["position"]!r} and after={plugin["after"]!r}; leave '
                "one out: position is for mmdet's own plugins, after for any module"
            )
        if unknown := set(plugin) - set(options):
            raise InputError(
                f'plugin option {first_few(sorted(unknown))} is unknown; an entry has cfg, after '
                'and stages'
            )
        cfg = plugin.get('cfg')
        kind = cfg.get('type') if isinstance(cfg, dict) else None
        if not (isinstance(kind, str) or inspect.isclass(kind)):
            raise InputError(
                f"{where}.cfg={cfg!r} is not a config with a type; give cfg=dict(type='CBAM')"
            )
        if _registered(kind) is None:
            raise InputError(
                f"no plugin {kind!r} is registered; check its spelling ('CBAM'), or import its "
                'module with custom_imports'
            )
        stages = plugin.get('stages')
        is_list = isinstance(stages, (list, tuple))
        if stages is not None and not (is_list and all(isinstance(one, bool) for one in stages)):
            raise InputError(
                f'{where}.stages={stages!r} is not valid; give one True or False per stage, such '
                'as (False, True, True, True)'
            )


def _registered(name: str | type) -> Callable | None:
    """What `MODELS.build` finds by that name, in the scope of the config; None if nothing."""
    if not isinstance(name, str):
        return name
    with MODELS.switch_scope_and_registry(None) as registry:
        return registry.get(name)


def insert(
    host: nn.Module, plugins: Sequence[dict], in_channels: int | Sequence[int] | None = None
) -> nn.Module:
    """Insert `plugins` (see `WithPlugins`) into `host`, behind those that it has, and return it.

    Args:
        host: a backbone, neck or head.
        plugins: entries with `cfg`, `after` and `stages`; the latter two may be left out.
        in_channels: of the host's input, one number a level, where it keeps none as attribute.
    """
    _check_entries(plugins)
    entries = [(name, plugin['cfg']) for plugin in plugins for name in _places_of(host, **plugin)]
    if not entries:
        return host
    names = list(dict.fromkeys(name for name, _ in entries))
    channels = find_channels(host, names, in_channels)
    with _fork_rng():
        built = [(name, *_build_plugin(cfg, channels[name])) for name, cfg in entries]
    inserted = getattr(host, 'inserted', None)
    if not isinstance(inserted, Inserted):
        inserted = host.inserted = Inserted()
    for name, attribute, plugin in built:
        # ModuleDict takes no dots, and underscores would make one key of a.b_c and a_b.c.
        key = _place_key(name)
        if key not in inserted:
            inserted[key] = ModuleDict()
        place = inserted[key]
        duplicates = sum(existing.rstrip('0123456789') == attribute for existing in place)
        place[f'{attribute}{duplicates + 1}' if duplicates else attribute] = plugin
    hang_plugins(host, {name: inserted[_place_key(name)] for name in names})
    return host


def _build_plugin(cfg: dict, channels: int) -> tuple[str, nn.Module]:
    """A plugin with its name in the host."""
    try:
        return build_plugin_layer({'in_channels': channels, **cfg})
    except TypeError as error:
        raise InputError(
            f'cfg={cfg} does not build a plugin for {channels} channels ({error}); a plugin is a '
            "module such as dict(type='CBAM') that takes in_channels and the options in its cfg"
        ) from None


def match(host: nn.Module, after: str | Sequence[str]) -> list[str]:
    """The modules of `host` that the pattern or patterns name, in the host's order.

    Raises:
        InputError: a pattern matches nothing; near names are listed.
    """
    names = list(places(host))
    matched = set()
    patterns = [after] if isinstance(after, str) else after
    is_list = isinstance(patterns, (list, tuple)) and patterns
    if not is_list or not all(isinstance(pattern, str) for pattern in patterns):
        raise InputError(
            f"after={after!r} is not valid; give a pattern of module names such as 'layer4.*.bn2', "
            'or a list of them'
        )
    for pattern in patterns:
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
