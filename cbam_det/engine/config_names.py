"""Check a config for names that are missing, misspelt or not registered.

The checks need the keys as they are written, so they read the raw config, not `utils.run_config`.
"""

from __future__ import annotations

import logging

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import HOOKS, OPTIMIZERS, Registry

from ..utils.config import kind_of, registered_class, registered_names
from ..utils.errors import InputError, near_hint
from ..utils.unread_keys import RUNNER_KEYS, unused_keys
from ..utils.value_types import shortened
from .own_hooks import OWN_HOOKS
from .unknown_options import check_unknown_options, hook_options


def check_complete(cfg: Config) -> None:
    """Check that training, validation and test each have all of their three keys or none.

    Raises:
        InputError: one or two of the three are missing.
    """
    thirds = dict(train='optim_wrapper', val='val_evaluator', test='test_evaluator')
    for split, third in thirds.items():
        keys = (f'{split}_dataloader', f'{split}_cfg', third)
        absent = [key for key in keys if cfg.get(key) is None]
        absent += [key for key in keys[:1] if cfg.get(key) == {}]
        if 0 < len(absent) < len(keys):
            given = [key for key in keys if key not in absent]
            raise InputError(
                f'the config has {" and ".join(given)}, but no {" and no ".join(absent)}; give '
                f'{" and ".join(absent)} too, or --cfg-options '
                f'{" ".join(f"{key}=None" for key in given)}'
            )


def check_names(cfg: Config) -> None:
    """Check the names of hooks, of their types and options, and of keys of the config.

    A top-level key that nothing reads causes only a warning, since it may be a variable.

    Raises:
        InputError: a default hook has no type, so its name is probably misspelt; the type of a hook
            or of the optimizer is not registered, or the hook has no such option; or nothing reads
            a key of a dictionary.
    """
    default = cfg.get('default_hooks') or {}
    for name, hook in default.items():
        path = f'default_hooks.{name}'
        if not isinstance(hook, dict):
            continue  # None, or a hook object
        hook = {**OWN_HOOKS.get(name, {}), **hook}
        if not hook.get('type'):
            near = near_hint(name, {*default, *OWN_HOOKS} - {name})
            raise InputError(f'{path}={hook} has no type{near or f"; give {path}.type too"}')
        _check_hook(path, hook)
    for number, hook in enumerate(cfg.get('custom_hooks') or []):
        if isinstance(hook, dict) and hook.get('type'):
            _check_hook(f'custom_hooks.{number}', hook)
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer')
    if isinstance(optimizer, dict) and optimizer.get('type'):
        path = 'optim_wrapper.optimizer.type'
        registered(OPTIMIZERS, optimizer['type'], path, optimizer.get('_scope_'))
    check_unknown_options(cfg)
    unused = unused_keys(cfg)
    for key in cfg:
        # mmdet's configs have the variable test_pipeline, which is similar to tta_pipeline.
        correct = key in RUNNER_KEYS or key == 'test_pipeline'
        near = '' if correct else near_hint(key, RUNNER_KEYS, 0.85)
        if near or key in unused:
            near = near or ', and the config does not use it'
            print_log(
                f'MMEngine does not read the key {key} of the config{near}', level=logging.WARNING
            )


def _check_hook(path: str, hook: dict) -> None:
    """Raise InputError if a hook's type is not registered or does not take one of its options."""
    hook_class = registered(HOOKS, hook['type'], f'{path}.type', hook.get('_scope_'))
    parameters = hook_options(hook_class)
    if parameters is None:
        return
    for option in hook:
        if option not in {*parameters, 'type', 'priority', '_scope_'}:
            raise InputError(
                f'{path}.{option} is not an option of {kind_of(hook)}'
                f'{near_hint(option, parameters)}'
            )


def registered(registry: Registry, kind: str | type, path: str, scope: str | None = None) -> type:
    """The class that a config names, looked up in the config's scope.

    Args:
        registry: the registry of MMEngine to search.
        kind: the name, or the class itself.
        path: its key path in the config, for the message.
        scope: the `_scope_` beside the type, or None.

    Raises:
        InputError: no registry has the name; the message lists similar names.
    """
    if not isinstance(kind, str):
        if not callable(kind):
            raise InputError(
                f"{path}={shortened(kind)} is not a type; give a name such as 'LoggerHook'"
            )
        return kind
    if scope is not None and not (isinstance(scope, str) and scope.isidentifier()):
        raise InputError(
            f'{path} has _scope_={shortened(scope)} beside it; give the name of a library'
        )
    registered_type = registered_class(registry, kind, scope)
    if registered_type is None:
        with registry.switch_scope_and_registry(scope) as own:
            near = near_hint(kind, registered_names(own))
        raise InputError(
            f'{path}={kind!r} is not registered; check its spelling, or import its module with '
            f'custom_imports{near}'
        )
    return registered_type
