"""Names in a raw config that are absent, misspelt or not registered.

It is about the keys as they are written, so it reads the raw config, not `utils.run_config`.
"""

from __future__ import annotations

import logging

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import HOOKS, Registry

from ..utils.config import kind_of, near_hint, registered_class, registered_names
from ..utils.errors import InputError
from ..utils.unread_keys import RUNNER_KEYS, unused_keys
from ..utils.value_types import shortened
from .unknown_options import check_options, hook_options

# What each run has beside MMEngine's default hooks, by its key in `default_hooks`; None there
# leaves one out. The audit is for models with a plugin.
OWN_HOOKS = dict(
    attention_audit=dict(type='AttentionAuditHook'),
    exact_resume=dict(type='ExactResumeHook'),
    finite_losses=dict(type='FiniteLossesHook'),
    stop_signals=dict(type='StopSignalsHook'),
    terminal=dict(type='TerminalHook'),
)


def check_complete(cfg: Config) -> None:
    """Check that a training, a validation and a test each have all of their three keys, or none.

    Raises:
        InputError: one or two of them are absent.
    """
    thirds = dict(train='optim_wrapper', val='val_evaluator', test='test_evaluator')
    for split, third in thirds.items():
        keys = (f'{split}_dataloader', f'{split}_cfg', third)
        absent = [key for key in keys if cfg.get(key) is None]
        if 0 < len(absent) < len(keys):
            given = [key for key in keys if key not in absent]
            raise InputError(
                f'the config has {" and ".join(given)}, but no {" and no ".join(absent)}; give '
                f'{" and ".join(absent)} too, or --cfg-options '
                f'{" ".join(f"{key}=None" for key in given)}'
            )


def check_names(cfg: Config) -> None:
    """Name what is misspelt: hooks, their types and options, and keys of the config.

    A key that is near to one of MMEngine's is only told: it may be the config's own.

    Raises:
        InputError: a default hook has no type, which a misspelt one lacks; a hook's type is not
            registered, or has no such option; a dictionary has a key that nothing reads.
    """
    default = cfg.get('default_hooks') or {}
    for name, hook in default.items():
        path = f'default_hooks.{name}'
        if not isinstance(hook, dict):
            continue  # None, or a hook that is made
        hook = {**OWN_HOOKS.get(name, {}), **hook}
        if not hook.get('type'):
            near = near_hint(name, {*default, *OWN_HOOKS} - {name})
            raise InputError(f'{path}={hook} has no type{near or f"; give {path}.type too"}')
        _check_hook(path, hook)
    for number, hook in enumerate(cfg.get('custom_hooks') or []):
        if isinstance(hook, dict) and hook.get('type'):
            _check_hook(f'custom_hooks.{number}', hook)
    check_options(cfg)
    unused = unused_keys(cfg)
    for key in cfg:
        near = '' if key in RUNNER_KEYS else near_hint(key, RUNNER_KEYS, 0.9)
        if near or key in unused:
            near = near or ', and the config does not use it'
            print_log(f'MMEngine reads no {key} of the config{near}', level=logging.WARNING)


def _check_hook(path: str, hook: dict) -> None:
    """Raise InputError where no registry knows a hook's type, or the type not its options."""
    hook_class = registered(HOOKS, hook['type'], f'{path}.type', hook.get('_scope_'))
    parameters = hook_options(hook_class)
    if parameters is None:
        return
    for option in hook:
        if option not in {*parameters, 'type', 'priority', '_scope_'}:
            raise InputError(
                f'{path}.{option} is unknown, {kind_of(hook)} has no such option'
                f'{near_hint(option, parameters)}'
            )


def registered(registry: Registry, kind: str | type, path: str, scope: str | None = None) -> type:
    """The class that a name of a config stands for, looked up in the config's scope.

    Args:
        registry: MMEngine's of its kind.
        kind: the name, or the class itself.
        path: where the config has it, for the message.
        scope: one of its own.

    Raises:
        InputError: no registry knows the name; what is near is listed.
    """
    if not isinstance(kind, str):
        if not callable(kind):
            raise InputError(
                f"{path}={shortened(kind)} is not a type; give a name, 'LoggerHook' say"
            )
        return kind
    if not isinstance(scope, str | None):
        raise InputError(f'{path} has _scope_={shortened(scope)} beside it; give a string')
    found = registered_class(registry, kind, scope)
    if found is None:
        with registry.switch_scope_and_registry(scope) as own:
            near = near_hint(kind, registered_names(own))
        raise InputError(
            f'{path}={kind!r} is not registered{near}; check its spelling, or import its module '
            'with custom_imports'
        )
    return found
