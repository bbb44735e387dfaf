"""The dictionaries of a config: all of them, the type of each, keys and names that are misspelt.

A `type` is a name ('CBAM', 'mmdet.ResNet'), or in MMEngine's pure Python configs the class itself.
"""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.registry import Registry, init_default_scope

from .environment import shipped_folder
from .errors import InputError, first_few, print_stderr
from .runner_types import check_runner_keys
from .unread_keys import OLD_KEYS, RUNNER_KEYS, refuse_old_keys
from .value_types import typed

# The names of one class: in the registry, and its own.
PRETRAINED = ('Pretrained', 'PretrainedInit')
CBAMS = ('CBAM', 'CBAMDet')
GIVEN_OPTIONS = '_given_options'  # an attribute of a Config beside its `_filename`; copies have it


def walk(node: object, path: str = '') -> Iterator[tuple[str, dict]]:
    """Every dictionary inside a config, with its dotted path."""
    if isinstance(node, dict):
        yield path, node
        children: Iterable[tuple[object, object]] = node.items()
    elif isinstance(node, (list, tuple)):
        children = enumerate(node)
    else:
        return
    for key, child in children:
        yield from walk(child, f'{path}.{key}' if path else str(key))


def kind_of(node: Mapping, key: str = 'type') -> str:
    """The name of a node's type without a scope, '' where it has none.

    mmcv's SyncBN, a `SyncBatchNorm` as torch's is, has its name of the registry, 'MMSyncBN'.
    """
    kind = node.get(key) or ''
    name = str(getattr(kind, '__name__', kind)).rpartition('.')[2]
    of_mmcv = str(getattr(kind, '__module__', kind)).startswith('mmcv.')
    return 'MMSyncBN' if of_mmcv and name == 'SyncBatchNorm' else name


def detector(cfg: Config) -> ConfigDict:
    """The detector of a config, inside test-time augmentation or semi-supervision."""
    model, place, inner = typed(cfg, 'model', dict, ''), 'model', None
    while inner := next((key for key in ('module', 'detector') if model.get(key)), None):
        model, place = typed(model, inner, dict, place), f'{place}.{inner}'
    return model


def is_detector(cfg: Config) -> bool:
    """Whether the model of a config predicts boxes; a classifier does not."""
    model = detector(cfg)
    return bool(model.get('bbox_head') or model.get('roi_head'))


def enter_scope(cfg: Config) -> None:
    """Let names be looked up in the config's library, mmdet where it names none."""
    init_default_scope(cfg.get('default_scope') or 'mmdet')


def registered_class(registry: Registry, kind: object, scope: str | None = None) -> type | None:
    """The class that a `type` of a config stands for; None where no registry knows it.

    Args:
        registry: MMEngine's of its kind.
        kind: the name, or the class itself.
        scope: one of its own; else that of the config, see `enter_scope`.
    """
    if not isinstance(kind, str):
        return kind if isinstance(kind, type) else None
    with registry.switch_scope_and_registry(scope) as own:
        try:
            found = own.get(kind)
        except (RuntimeError, ValueError):  # MMEngine's, of a name that is no object's either
            return None
    return found if isinstance(found, type) else None


def registered_names(registry: Registry | None) -> list[str]:
    """What a registry and those above it know."""
    if registry is None:
        return []
    return [*registry.module_dict, *registered_names(registry.parent)]


def near_hint(name: str, candidates: Iterable[str], cutoff: float = 0.6) -> str:
    """'; near: max_epochs' for an error, or '' where nothing is near."""
    matches = difflib.get_close_matches(name, list(candidates), 2, cutoff)
    return f'; near: {first_few(matches)}' if matches else ''


def larger_rate(cfg: Config) -> str:
    """What gives the attention of a config ten times its learning rate, as a line to paste."""
    keys = ((cfg.get('optim_wrapper') or {}).get('paramwise_cfg') or {}).get('custom_keys') or {}
    own = [key for key in keys if 'inserted' in key or 'cbam' in key]
    key = max(own, key=len, default='cbam')  # MMEngine takes the longest that fits
    rate = 10 * (keys.get(key) or {}).get('lr_mult', 1)
    if '.' in key:
        return f'optim_wrapper.paramwise_cfg.custom_keys={{{key!r}: dict(lr_mult={rate:g})}}'
    return f'--cfg-options optim_wrapper.paramwise_cfg.custom_keys.{key}.lr_mult={rate:g}'


def key_hint(cfg: Config, key: str, kind: str = '') -> str:
    """Where a key stands in a config, and what is near beside it, for an error.

    Args:
        kind: of whose nodes; of all where none has it.
    """
    nodes = [(path, node) for path, node in walk(cfg.to_dict()) if key in node]
    of_kind = [
        (path, node) for path, node in nodes if kind in (kind_of(node), kind_of(node, 'base_type'))
    ]
    nodes = of_kind or nodes
    key_paths = [f'{path}.{key}'.lstrip('.') for path, _ in nodes]
    sibling_keys = dict.fromkeys(name for _, node in nodes for name in node if name != key)
    return f' ({first_few(key_paths)}{near_hint(key, sibling_keys)})' if key_paths else ''


def find_config(name: str, announce: bool = True) -> str:
    """A config by its path, one of a library (`mmdet::FOLDER/CONFIG.py`), or a shipped one by its
    name, whose path is printed if `announce`.

    Raises:
        InputError: there is none; the message lists near names.
    """
    if '::' in name:
        return _config_of_library(name)
    if Path(name).is_file():
        return name
    folder = shipped_folder('configs')
    files = [*sorted(folder.glob('*.py')), *sorted(folder.glob('[a-z]*/*.py'))]
    shipped_configs = {path.relative_to(folder).with_suffix('').as_posix(): path for path in files}
    config_name = Path(name).with_suffix('').as_posix().removeprefix('configs/')
    if config_name in shipped_configs:
        if announce:
            print(f'config: {shipped_configs[config_name]}', file=sys.stderr)
        return str(shipped_configs[config_name])
    neighbours = {path.stem: str(path) for path in sorted(Path(name).parent.glob('*.py'))}
    near_stems = difflib.get_close_matches(Path(name).stem, neighbours, 3)
    near_names = [neighbours[stem] for stem in near_stems]
    near_names = near_names or difflib.get_close_matches(Path(name).stem, shipped_configs, 3, 0.4)
    near_names = near_names or list(shipped_configs)
    raise InputError(
        f'no config {name} below {Path.cwd()}, and none of that name is shipped in '
        f'{folder}; near: {first_few(near_names)}'
    )


def _config_of_library(name: str) -> str:
    """The path of 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', say."""
    library, _, config = name.partition('::')
    found = importlib.util.find_spec(library) if library.isidentifier() else None
    if found is None or found.origin is None:  # MMEngine would install it
        raise InputError(
            f'{name}: no library {library} is installed; write mmdet::FOLDER/CONFIG.py'
        )
    try:
        return get_config(name).filename
    except Exception as error:
        folder = Path(found.origin).parent / '.mim/configs'
        known = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob('*.py'))]
        raise InputError(
            f'{library} has no config {config} that can be read ({type(error).__name__})'
            f'{near_hint(config, known)}'
        ) from None


def read_config(name: str, options: dict | None = None, announce: bool = True) -> Config:
    """A config by its path or shipped name, see `find_config`, with the `--cfg-options` merged.

    Raises:
        InputError: there is none, it cannot be read, it has keys of mmdet 2.x, an option does not
            fit it, or a key of MMEngine's runner is of another type.
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
    check_runner_keys(cfg)
    vars(cfg)[GIVEN_OPTIONS] = dict(options or {})
    return cfg


def given_options(cfg: Config) -> dict[str, object]:
    """The `--cfg-options` with which `read_config` has read a config, for commands that are printed
    for it.
    """
    return vars(cfg).get(GIVEN_OPTIONS, {})


def override(cfg: Config, options: dict | None) -> Config:
    """`cfg` with options by their dotted keys merged into it.

    A key that MMEngine does not read is told, where the config or a hook of its own may.

    Raises:
        InputError: an option does not fit it, or its key is misspelt or stands deeper.
    """
    for key in dict.fromkeys(key.partition('.')[0] for key in options or {}):
        if key in RUNNER_KEYS:
            continue
        if key in OLD_KEYS:
            raise InputError(
                f'{key} of the options would have no effect: it is a key of mmdet 2.x, now '
                f'{OLD_KEYS[key]}'
            )
        hint = '' if key in cfg else near_hint(key, RUNNER_KEYS, 0.8) or key_hint(cfg, key)
        if hint:
            raise InputError(f'{key} of the options would have no effect{hint}')
        consequence = ', and the config has used its own when it was read' if key in cfg else ''
        print_stderr(f'{key} of the options: MMEngine reads no such key{consequence}')
    try:
        cfg.merge_from_dict(options or {})
    except (KeyError, TypeError, AssertionError, IndexError) as error:
        raise InputError(
            f'the options {options} do not fit {cfg.filename} ({error}); '
            'give key=value with the keys that the config has'
        ) from None
    return cfg
