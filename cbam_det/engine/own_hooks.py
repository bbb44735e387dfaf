"""The hooks that `CheckedRunner` adds to every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..utils.errors import InputError

HookConfig: TypeAlias = Hook | dict

# The hooks of every run besides MMEngine's, by their keys in `default_hooks`, where None turns one
# off. The audit is only for models with a plugin.
OWN_HOOKS = dict(
    attention_audit=dict(type='AttentionAuditHook'),
    exact_resume=dict(type='ExactResumeHook'),
    finite_losses=dict(type='FiniteLossesHook'),
    run_report=dict(type='RunReportHook'),
    stop_signals=dict(type='StopSignalsHook'),
    terminal=dict(type='TerminalHook'),
)


def with_own_hooks(
    default_hooks: Mapping[str, HookConfig | None] | None,
    custom_hooks: Sequence[HookConfig] | None,
    has_plugins: bool,
) -> dict[str, HookConfig | None]:
    """The default hooks with those of `OWN_HOOKS` that the config does not have.

    The config may have a hook under another key.

    Args:
        default_hooks, custom_hooks: those of the config.
        has_plugins: whether the model has a plugin.

    Raises:
        InputError: the config has one of `OWN_HOOKS` twice.
    """
    hooks: dict[str, HookConfig | None] = dict(default_hooks or {})
    given = {name: hooks.pop(name) for name in OWN_HOOKS if name in hooks}
    other_hooks = {f'default_hooks.{name}': hook for name, hook in hooks.items()}
    other_hooks |= {f'custom_hooks.{place}': hook for place, hook in enumerate(custom_hooks or [])}
    for name, own_hook in OWN_HOOKS.items():
        options = given.get(name)
        if isinstance(options, dict):
            options = {**own_hook, **options}
        own_class = HOOKS.get(own_hook['type'])
        places = [
            path for path, hook in other_hooks.items() if issubclass(class_of(hook), own_class)
        ]
        if options is not None and issubclass(class_of(options), own_class):
            places.append(f'default_hooks.{name}')
        if len(places) > 1:
            raise InputError(
                f'{" and ".join(places)} are each an {own_class.__name__}, but a run can have '
                'only one; remove the others'
            )
        is_wanted = has_plugins or name != 'attention_audit'
        if name not in given and not places and is_wanted:
            options = own_hook
        if options is not None:
            hooks[name] = options
    return hooks


def class_of(hook: HookConfig | None) -> type:
    """The class of a hook or of a hook's config; NoneType if the config has no type."""
    if not isinstance(hook, dict):
        return type(hook)
    kind = hook.get('type')
    return (HOOKS.get(kind) if isinstance(kind, str) else kind) or type(None)
