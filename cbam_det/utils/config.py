"""Find and read configs, walk through their dictionaries, and suggest names for misspelt ones.

A `type` is a name ('CBAM', 'mmdet.ResNet') or, in MMEngine's pure Python configs, the class itself.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.registry import MODELS, Registry, init_default_scope
from mmengine.utils import import_modules_from_strings

from .errors import InputError, first_few, near_hint, print_stderr
from .find_files import find_config_file
from .runner_types import check_runner_keys
from .unread_keys import OLD_KEYS, RUNNER_KEYS, refuse_old_keys
from .value_types import typed

# The names of a class in configs: the registered one and, from a pure Python config, its own.
PRETRAINED = ('Pretrained', 'PretrainedInit')
CBAMS = ('CBAM', 'CBAMDet')
GIVEN_OPTIONS = '_given_options'  # an attribute of a Config, like `_filename`; copies keep it


def walk(node: object, path: str = '') -> Iterator[tuple[str, dict]]:
    """Every dictionary inside a config, with its key path."""
    if isinstance(node, dict):
        yield path, node
        children: Iterable[tuple[object, object]] = node.items()
    elif isinstance(node, (list, tuple)):
        children = enumerate(node)
    else:
        return
    for key, child in children:
        yield from walk(child, f'{path}.{key}' if path else str(key))


def part_at(cfg: object, keys: Iterable[str]) -> object:
    """The part of a config at these keys of dictionaries and numbers of list items, or None."""
    for key in keys:
        if isinstance(cfg, (list, tuple)):
            cfg = cfg[int(key)] if key.isdigit() and int(key) < len(cfg) else None
        else:
            cfg = cfg.get(key) if isinstance(cfg, dict) else None
    return cfg


def kind_of(node: Mapping, key: str = 'type') -> str:
    """The name of a node's type without its scope, '' if it has no type.

    mmcv's `SyncBatchNorm` gets its registered name, 'MMSyncBN', as torch has a class of that name.
    """
    kind = node.get(key) or ''
    name = str(getattr(kind, '__name__', kind)).rpartition('.')[2]
    of_mmcv = str(getattr(kind, '__module__', kind)).startswith('mmcv.')
    return 'MMSyncBN' if of_mmcv and name == 'SyncBatchNorm' else name


def detector(cfg: Config) -> ConfigDict:
    """The detector of a config, also inside test-time augmentation or a semi-supervised model."""
    return detector_with_path(cfg)[1]


def detector_with_path(cfg: Config) -> tuple[str, ConfigDict]:
    """The key path of `detector`, 'model' or for example 'model.detector', and the detector."""
    model, place, inner = typed(cfg, 'model', dict, ''), 'model', None
    while inner := next((key for key in ('module', 'detector') if model.get(key)), None):
        model, place = typed(model, inner, dict, place), f'{place}.{inner}'
    return place, model


def is_detector(cfg: Config) -> bool:
    """Whether the model of a config is a detector, which predicts boxes, and not a classifier."""
    model = detector(cfg)
    return bool(model.get('bbox_head') or model.get('roi_head'))


def enter_scope(cfg: Config) -> None:
    """Make MMEngine look names up in the config's `default_scope`, mmdet if it has none.

    Raises:
        InputError: the library is not installed, so MMEngine would find no name.
    """
    scope = cfg.get('default_scope') or 'mmdet'
    installed = scope.isidentifier() and importlib.util.find_spec(scope)
    if not installed and scope not in MODELS.children:
        raise InputError(
            f"default_scope={scope!r} is not an installed library; give default_scope='mmdet'"
        )
    init_default_scope(scope)
    if scope == 'mmpretrain':  # which prints a note on an optional library when it is imported
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(ImportError):
            importlib.import_module('mmpretrain.datasets')


def registered_class(registry: Registry, kind: object, scope: str | None = None) -> type | None:
    """The class that a `type` of a config names; None if no registry has it.

    Args:
        registry: the registry of MMEngine to search.
        kind: the name, or the class itself.
        scope: the `_scope_` beside the type; None for the config's, see `enter_scope`.
    """
    if not isinstance(kind, str):
        return kind if isinstance(kind, type) else None
    try:
        with registry.switch_scope_and_registry(scope) as own:
            registered = own.get(kind)
    except (RuntimeError, ValueError, TypeError):  # there is no such class or library
        return None
    return registered if isinstance(registered, type) else None


def registered_names(registry: Registry | None) -> list[str]:
    """The names in a registry and in its parents."""
    if registry is None:
        return []
    return [*registry.module_dict, *registered_names(registry.parent)]


def larger_rate(cfg: Config) -> str:
    """How to give the attention of a config ten times its learning rate.

    Returns:
        Options to paste; or a line for the config if a key has a dot, where options are split.
    """
    keys = ((cfg.get('optim_wrapper') or {}).get('paramwise_cfg') or {}).get('custom_keys') or {}
    own = [key for key in keys if 'inserted' in key or 'cbam' in key]
    key = max(own, key=len, default='cbam')  # MMEngine uses the longest matching key
    rate = 10 * (keys.get(key) or {}).get('lr_mult', 1)
    if '.' in key:
        keys = f'{{{key!r}: dict(lr_mult={rate:g})}}'
        return f'optim_wrapper = dict(paramwise_cfg=dict(custom_keys={keys})) in the config'
    return f'--cfg-options optim_wrapper.paramwise_cfg.custom_keys.{key}.lr_mult={rate:g}'


def key_hint(cfg: Config, key: str) -> str:
    """A hint for an error: where a config has a key, and similar keys of the same dictionaries."""
    nodes = [(path, node) for path, node in walk(cfg.to_dict()) if key in node]
    key_paths = [f'{path}.{key}'.lstrip('.') for path, _ in nodes]
    sibling_keys = dict.fromkeys(name for _, node in nodes for name in node if name != key)
    return f' ({first_few(key_paths)}{near_hint(key, sibling_keys)})' if key_paths else ''


def find_config(name: str, announce: bool = True) -> str:
    """The path of a config.

    Args:
        name: a path, `mmdet::FOLDER/CONFIG.py` for a config of a library, or the name of a shipped
            config.
        announce: whether to print the path of a shipped config.

    Raises:
        InputError: there is no such config; the message lists similar names.
    """
    if '::' in name:
        return _config_of_library(name)
    path = find_config_file(name)
    if announce and path != name:
        print(f'config: {path}', file=sys.stderr)
    return path


def _config_of_library(name: str) -> str:
    """The path of a library's config, such as 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'."""
    library, _, config = name.partition('::')
    spec = importlib.util.find_spec(library) if library.isidentifier() else None
    if spec is None or spec.origin is None:  # MMEngine would install it
        raise InputError(
            f'{name}: the library {library} is not installed; write mmdet::FOLDER/CONFIG.py'
        )
    try:
        return get_config(name).filename
    except Exception as error:
        folder = Path(spec.origin).parent / '.mim/configs'
        known = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob('*.py'))]
        raise InputError(
            f'{library} has no config {config} that can be read ({type(error).__name__})'
            f'{near_hint(config, known)}'
        ) from None


def read_config(name: str, options: dict | None = None, announce: bool = True) -> Config:
    """Read a config by its path or name, see `find_config`, and merge `--cfg-options` into it.

    Raises:
        InputError: it does not exist or cannot be read, it has keys of mmdet 2.x, an option does
            not fit it, a module of the option `custom_imports` cannot be imported, or a key of
            MMEngine's runner has a value of the wrong type.
    """
    path = find_config(name, announce)
    try:
        cfg = Config.fromfile(path)
    except Exception as error:
        raise InputError(
            f'{path} cannot be read as a config ({type(error).__name__}: {error})'.replace(
                '\n', ' '
            )
        ) from None
    refuse_old_keys(cfg)
    cfg = override(cfg, options)
    if any(key.partition('.')[0] == 'custom_imports' for key in options or {}):
        _import_modules(cfg)
    check_runner_keys(cfg)
    vars(cfg)[GIVEN_OPTIONS] = dict(options or {})
    return cfg


def _import_modules(cfg: Config) -> None:
    """Import the modules of `custom_imports`; MMEngine does so before options are merged."""
    custom = typed(cfg, 'custom_imports', dict | None, '') or {}
    modules = typed(custom, 'imports', str | list[str] | None, 'custom_imports')
    for key in set(custom) - {'imports', 'allow_failed_imports'}:
        raise InputError(
            f'custom_imports.{key} is not an option; give custom_imports.imports=MODULE'
        )
    for module in [modules] if isinstance(modules, str) else modules or ():
        try:
            import_modules_from_strings(module, bool(custom.get('allow_failed_imports')))
        except Exception as error:  # of any kind, from the module's own code
            reason = f'{type(error).__name__}: {error}'
            raise InputError(
                f'custom_imports.imports={module!r} cannot be imported ({reason}); check its '
                'name, or set PYTHONPATH to its folder if it is not installed'
            ) from None


def given_options(cfg: Config) -> dict[str, object]:
    """The `--cfg-options` that `read_config` merged into a config, to print them in commands."""
    return vars(cfg).get(GIVEN_OPTIONS, {})


def override(cfg: Config, options: dict | None) -> Config:
    """Merge options with dotted keys into `cfg`, and return it.

    A key that MMEngine does not read causes a warning, since the config or its hook may read it.

    Raises:
        InputError: an option does not fit the config, or its key is misspelt or belongs to an inner
            dictionary.
    """
    for key in dict.fromkeys(key.partition('.')[0] for key in options or {}):
        if key in RUNNER_KEYS:
            continue
        if key in OLD_KEYS:
            raise InputError(
                f'the option {key} would have no effect: it is a key of mmdet 2.x, now '
                f'{OLD_KEYS[key]}'
            )
        hint = '' if key in cfg else near_hint(key, RUNNER_KEYS, 0.8) or key_hint(cfg, key)
        if hint:
            raise InputError(f'the option {key} would have no effect{hint}')
        consequence = ', and the config has already used its own value' if key in cfg else ''
        print_stderr(f'the option {key}: MMEngine does not read this key{consequence}')
    try:
        cfg.merge_from_dict(options or {})
    except (KeyError, TypeError, AssertionError, IndexError) as error:
        raise InputError(
            f'the options {options} do not fit {cfg.filename} ({error}); '
            'give key=value with keys that the config has'
        ) from None
    except AttributeError:
        raise InputError(
            f'the options {options} do not fit {cfg.filename}: MMEngine changes an element of a '
            'list only if it is a dictionary; give the whole list, KEY="[A,B]"'
        ) from None
    return cfg
