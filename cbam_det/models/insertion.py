"""Insert plugins after any module of a backbone, neck or head by config.

mmdet's own `plugins=` works only for ResNets with bottleneck blocks. `WithPlugins` builds any
component (backbone, neck, head or RoI extractor) and inserts plugins after its modules: at the
paper's places, or after the modules that a pattern names::

    backbone=dict(
        type='WithPlugins',
        base_type='ResNet',
        depth=18,
        plugins=[dict(cfg=dict(type='CBAM'))],  # or with after='layer4.*.bn2'
    )

The result is an object of the component's class with unchanged state-dict keys, so its pretrained
weights load. The plugins are stored in its child `inserted`, one key per place, and forward hooks
run them. Since they are outside the stages, `frozen_stages` does not freeze them, a `Sequential`
does not run them twice, and `init_weights` initialises them.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from itertools import chain, count

import torch
from mmcv.cnn import build_plugin_layer
from mmengine.model import BaseModule, ModuleDict
from mmengine.registry import MODELS
from torch import nn

from ..utils.class_options import options_of
from ..utils.config import PRETRAINED, kind_of
from ..utils.errors import InputError, first_few, near_hint
from ..utils.installation import tool_command
from .channels import find_channels, module_names
from .compat import fix_ssd_heads
from .paper_places import family_of, in_stages, outside_frozen, patterns_of
from .plugin_hooks import ITSELF, attach_plugins

EXAMPLE = "plugins=[dict(cfg=dict(type='CBAM'))]"


@MODELS.register_module()
def WithPlugins(
    base_type: str | type, plugins: Sequence[dict] | None = None, **options
) -> nn.Module:
    """Build a component and insert plugins after its modules.

    Args:
        base_type: the component's class or its name in the registry, such as 'ResNet' or 'FPN';
            with a scope if another library registers it, such as 'mmdet.ResNet' in mmrotate.
        plugins: a list of dictionaries. `cfg` is the plugin's config; its `in_channels` is filled
            in. `after` is one pattern of module names or a list of them: `*` matches one part of a
            name between dots, `**` any number of parts, '.' the component's own output. Without
            `after` the plugin goes to the paper's places outside frozen stages (paper_places.py).
            `stages` has one boolean per stage, as in mmdet, and keeps the places in those stages,
            frozen or not. Plugins at the same place run in the given order. Entries with `position`
            are passed to mmdet's own `plugins=`.
        options: the options of the component.

    Returns:
        The component, with the plugins in its child `inserted`.

    Raises:
        InputError: an entry is invalid, a pattern matches nothing, the paper names no place in
            this component, a module's output is not a feature map (N, C, H, W), or its number of
            channels cannot be determined. The message lists similar names.
    """
    plugins = () if plugins is None else plugins
    _check_entries(plugins, ('cfg', 'after', 'stages', 'position'))
    inserted = [plugin for plugin in plugins if 'position' not in plugin]
    passed_on = [plugin for plugin in plugins if 'position' in plugin]
    if isinstance(base_type, str) and _registered(base_type) is None:
        children = MODELS.children.items()
        scopes = [scope for scope, registry in children if base_type in registry.module_dict]
        if scopes:
            raise InputError(
                f'base_type={base_type!r} is not registered in this scope; write '
                f"base_type='{scopes[0]}.{base_type}'"
            )
    fix_ssd_heads()
    if passed_on:
        component = _build_with_position(base_type, passed_on, options)
    else:
        component = MODELS.build(dict(type=base_type, **options))
    return insert(component, inserted, options.get('in_channels'))


def _build_with_position(base_type: str | type, plugins: list[dict], options: dict) -> nn.Module:
    """Build a component with plugins that have mmdet's `position`."""
    component_type = _registered(base_type)
    name = getattr(base_type, '__name__', base_type)
    remedy = "give after='PATTERN OF MODULE NAMES' instead, or neither for the paper's places"
    position = f'position={plugins[0]["position"]!r}'
    if inspect.isclass(component_type) and 'plugins' not in options_of(component_type)[0]:
        raise InputError(
            f"{position} works only in mmdet's bottleneck ResNets, not in {name}; {remedy}"
        )
    try:
        return MODELS.build(dict(type=base_type, plugins=plugins, **options))
    except AssertionError as error:  # mmdet checks the position by assert
        raise InputError(
            f'{name} cannot be built with {position} ({error or "rejected by mmdet"}); mmdet '
            'allows after_conv1, after_conv2 and after_conv3 in bottleneck blocks (depth=50, 101, '
            f'152); {remedy}'
        ) from None


def _check_entries(
    plugins: Sequence[dict], options: Sequence[str] = ('cfg', 'after', 'stages')
) -> None:
    """Raise InputError if an entry is not valid for `WithPlugins`."""
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
        if stages is not None and not (
            is_list and all(isinstance(stage, bool) for stage in stages)
        ):
            raise InputError(
                f'{where}.stages={stages!r} is not valid; give one True or False per stage, such '
                'as (False, True, True, True)'
            )


def _registered(name: str | type) -> Callable | None:
    """The class that `MODELS.build` would use for this name in the config's scope; None if none."""
    if not isinstance(name, str):
        return name
    with MODELS.switch_scope_and_registry(None) as registry:
        return registry.get(name)


def insert(
    component: nn.Module, plugins: Sequence[dict], in_channels: int | Sequence[int] | None = None
) -> nn.Module:
    """Insert `plugins` (see `WithPlugins`) into `component` in place, and return it.

    At a place that already has plugins, the new ones run after them.

    Args:
        component: a backbone, neck or head.
        plugins: entries with `cfg`, and optionally `after` and `stages`.
        in_channels: the channels of the component's input, for a neck one number per level; needed
            only if the component has no attribute `in_channels`.
    """
    _check_entries(plugins)
    entries = [
        (name, plugin['cfg']) for plugin in plugins for name in _places_of(component, **plugin)
    ]
    if not entries:
        return component
    names = list(dict.fromkeys(name for name, _ in entries))
    channels = find_channels(component, names, in_channels)
    with _fork_rng():
        built = [(name, *_build_plugin(cfg, channels[name])) for name, cfg in entries]
    inserted = getattr(component, 'inserted', None)
    if not isinstance(inserted, Inserted):
        inserted = component.inserted = Inserted()
        if isinstance(component, BaseModule):
            component.init_weights = _InitWeights(component)
    for name, attribute, plugin in built:
        key = _place_key(name)
        if key not in inserted:
            inserted[key] = ModuleDict()
        place = inserted[key]
        keys = chain([attribute], (f'{attribute}{number}' for number in count(2)))
        place[next(key for key in keys if key not in place)] = plugin
    attach_plugins(component, {name: inserted[_place_key(name)] for name in names})
    return component


def _build_plugin(cfg: dict, channels: int) -> tuple[str, nn.Module]:
    """Build a plugin; returns its attribute name and the module."""
    try:
        return build_plugin_layer({'in_channels': channels, **cfg})
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        kind = _registered(cfg['type'])
        near = near_hint(unknown[1], options_of(kind)[0]) if unknown and kind else ''
        raise InputError(
            f'cfg={cfg} does not build a plugin for {channels} channels ({error}{near}); give a '
            "module that takes in_channels, such as dict(type='CBAM'), and only options that it has"
        ) from None


def match(component: nn.Module, after: str | Sequence[str]) -> list[str]:
    """The names of the modules that match a pattern, in the component's order.

    Raises:
        InputError: a pattern matches nothing; the message lists similar names.
    """
    names = list(module_names(component))
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
            hint = " (* matches one part of a name, as in 'layer*.*.bn2'; ** any number of parts)"
            raise InputError(
                f'after={pattern!r} matches no module of {type(component).__name__}'
                f'{hint if ignoring_dots else ""}; similar names: {first_few(near_names, 5)}'
            )
        matched |= hits
    return [name for name in names if name in matched]


def _places_of(
    component: nn.Module,
    cfg: dict,
    after: str | Sequence[str] | None = None,
    stages: Sequence[bool] | None = None,
) -> list[str]:
    """The names of the modules after which an entry of `plugins` is inserted."""
    if after is None and stages is None:
        return default_places(component)
    names = paper_places(component) if after is None else match(component, after)
    if stages is None:
        return names
    chosen = in_stages(component, names, stages)
    if not chosen:
        raise InputError(
            f'stages={tuple(stages)} selects none of the places {first_few(names, 5)}; set the '
            'stage of one of them to True'
        )
    return chosen


def paper_places(component: nn.Module) -> list[str]:
    """The names of the modules after which the paper inserts attention, in the component's order.

    Raises:
        InputError: no places are known for this component, or it has none of them.
    """
    choices = [
        choice if isinstance(choice, tuple) else (choice,) for choice in patterns_of(component)
    ]
    matched: set[str] = set()
    names = list(module_names(component))
    for choice in choices:
        hits = ({name for name in names if _matches_pattern(name, pattern)} for pattern in choice)
        matched |= next(filter(None, hits), set())
    if not matched:
        raise InputError(
            f'this {type(component).__name__} has no module that matches '
            f'{first_few([*chain(*choices)])}; give after, a pattern of module names '
            f'({tool_command("places", "CONFIG")} lists them)'
        )
    return [name for name in names if name in matched]


def default_places(component: nn.Module) -> list[str]:
    """The paper's places outside the frozen stages; see paper_places.py."""
    return outside_frozen(component, paper_places(component))


def places_left_out(component: nn.Module) -> list[str]:
    """The paper's places in frozen stages, if the attention is at all of the others alone."""
    inserted = getattr(component, 'inserted', None)
    if not isinstance(inserted, Inserted) or family_of(type(component)) is None:
        return []
    if {*inserted} != {_place_key(name) for name in default_places(component)}:
        return []
    return [name for name in paper_places(component) if _place_key(name) not in inserted]


def _matches_pattern(name: str, pattern: str) -> bool:
    return _parts_match(name.split('.'), pattern.split('.'))


def _parts_match(parts: list[str], pattern: list[str]) -> bool:
    if not pattern or not parts:
        return not parts and all(part == '**' for part in pattern)
    if pattern[0] == '**':
        return _parts_match(parts, pattern[1:]) or _parts_match(parts[1:], pattern)
    return fnmatchcase(parts[0], pattern[0]) and _parts_match(parts[1:], pattern[1:])


def _place_key(name: str) -> str:
    """The key of a module name in `inserted`, such as 'layer1/0/bn2'.

    ModuleDict allows no dots, and with underscores a.b_c and a_b.c would have the same key.
    """
    return 'itself' if name == ITSELF else name.replace('.', '/')


def _fork_rng() -> AbstractContextManager:
    """Restore the random state afterwards, so that the plugins do not change other weights."""
    gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    return torch.random.fork_rng([torch.cuda.current_device()] if gpu else [])


class Inserted(ModuleDict):
    """The plugins of a component, by place."""

    def init_weights(self) -> None:
        with _fork_rng():
            super().init_weights()

    def apply(self, fn: Callable[[nn.Module], None]) -> Inserted:
        """As in torch; the `init_cfg` of a module around this one initialises by it."""
        with _fork_rng():
            return super().apply(fn)


class _InitWeights:
    """Replaces a component's `init_weights`, so that it neither changes the start of the plugins
    nor draws random numbers for them.

    The methods of many components (Swin, PVT, DetectoRS, Hourglass) initialise all layers below
    them. So the plugins are taken off during the call, unless it loads weights, which may contain
    those of the plugins.
    """

    def __init__(self, component: BaseModule) -> None:
        self.component = component

    def __call__(self) -> None:
        component = self.component
        if _loads_weights(component):
            type(component).init_weights(component)
            return
        inserted = component.inserted
        del component.inserted
        try:
            type(component).init_weights(component)
        finally:
            component.inserted = inserted
        if not inserted.is_init:
            inserted.init_weights()


def _loads_weights(component: BaseModule) -> bool:
    """Whether the component's `init_weights` loads weights."""
    init_cfgs = component.init_cfg or ()
    init_cfgs = [init_cfgs] if isinstance(init_cfgs, Mapping) else init_cfgs
    is_pretrained = any(kind_of(init_cfg) in PRETRAINED for init_cfg in init_cfgs)
    return is_pretrained or isinstance(getattr(component, 'pretrained', None), str)  # of DetectoRS
