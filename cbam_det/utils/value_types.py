"""The types of a config's values: what a function takes by its annotations, and what we read."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mmengine.hooks import Hook
from mmengine.runner import Runner

from .errors import InputError

WORDS: dict[type, str] = {
    dict: 'a dictionary',
    list: 'a list',
    str: 'a string',
    int: 'a whole number',
    float: 'a number',
    bool: 'True or False',
    type(None): 'None',
}


def typed(node: Mapping, key: str, wanted: Any, place: str, default: Any = None) -> Any:
    """A value of a config's dictionary, of a type that the code after it can use.

    Args:
        node: the dictionary.
        key: of the value.
        wanted: its type, an annotation such as `str | None`.
        place: the dictionary's dotted path, for the message.
        default: where the key is not there.

    Raises:
        InputError: the value is of another type.
    """
    value = node.get(key, default)
    if fits(value, wanted):
        return value
    if key not in node:
        raise InputError(f'{place or "the config"} has no {key}; give {words_of(wanted)}')
    raise wrong_type(f'{place}.{key}'.lstrip('.'), value, wanted)


def wrong_type(path: str, value: object, wanted: Any) -> InputError:
    """The error for a value of another type than `wanted`."""
    return InputError(f'{path}={shortened(value)} is {kind_word(value)}; give {words_of(wanted)}')


def shortened(value: object) -> str:
    """A value as it is written in a config, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f'{text[:77]}...'


def kind_word(value: object) -> str:
    """What a value is, in words: 'a list'."""
    kind = type(value)
    if kind is bool:
        return 'a boolean'
    return WORDS.get(kind) or ('a dictionary' if isinstance(value, dict) else f'a {kind.__name__}')


def words_of(annotation: Any) -> str:
    """An annotation in words: 'a dictionary or None'."""
    parts = {part: get_origin(part) or part for part in _parts(annotation)}
    words = [WORDS[kind] for kind in parts.values() if kind in WORDS]
    words = list(dict.fromkeys(words or map(_name, parts)))
    return ' or '.join([', '.join(words[:-1]), words[-1]] if words[1:] else words)


def fits(value: object, annotation: Any) -> bool:
    """Whether a value is of an annotated type; of a container, whether its elements are.

    Whatever cannot be checked fits.
    """
    parts = _parts(annotation)
    if len(parts) != 1:
        return any(fits(value, part) for part in parts)
    kind, inner = get_origin(parts[0]) or parts[0], get_args(parts[0])
    if kind is Literal:
        return value in inner
    if kind is Any or not isinstance(kind, type):
        return True
    if kind in (list, tuple, Sequence):
        elements = [part for part in inner if part is not ...]
        return isinstance(value, (list, tuple)) and (
            len(elements) != 1 or all(fits(element, elements[0]) for element in value)
        )
    if kind is bool:
        return value in (0, 1) if isinstance(value, (bool, int)) else False
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    if kind is Path:
        kind = (str, Path)
    return isinstance(value, kind)


def options_of(kind: Callable) -> tuple[dict[str, Any], bool]:
    """The options that a class or a function takes, with those that a class passes to its bases.

    Returns:
        Their annotations, `Any` where there is none, and whether others are taken too.
    """
    options: dict[str, Any] = {}
    owners = inspect.getmro(kind)[:-1] if inspect.isclass(kind) else [kind]
    functions = [vars(one).get('__init__') if inspect.isclass(one) else one for one in owners]
    for function in filter(None, functions):
        parameters = inspect.signature(function).parameters.values()
        try:
            annotations = get_type_hints(function)
        except (NameError, TypeError, AttributeError):
            annotations = {}  # of names that are imported for type checkers alone
        named = [
            one.name for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
        ]
        options = {**{name: annotations.get(name, Any) for name in named}, **options}
        if all(one.kind is not one.VAR_KEYWORD for one in parameters):
            return options, False
    return options, any(functions)


# What the runner takes besides its annotation; None is the scope of pure Python configs.
WIDER = dict(log_level=int, default_scope=None, work_dir=None)


def check_runner_keys(cfg: Mapping) -> None:
    """Check the types of the keys that MMEngine's runner takes, by its annotations.

    Raises:
        InputError: one is of another type, or a default hook is no dictionary.
    """
    for key, wanted in options_of(Runner)[0].items():
        if key in cfg and key not in ('self', 'cfg'):
            wanted = Union[wanted, WIDER.get(key, wanted)]  # noqa: UP007
            outer = [get_origin(part) or part for part in _parts(wanted)]
            if not any(fits(cfg[key], part) for part in outer):
                raise wrong_type(key, cfg[key], wanted)
    for name in cfg.get('default_hooks') or {}:
        typed(cfg['default_hooks'], name, Hook | dict | None, 'default_hooks')
    for number, hook in enumerate(cfg.get('custom_hooks') or []):
        if not fits(hook, Hook | dict):
            raise wrong_type(f'custom_hooks.{number}', hook, dict)


def _parts(annotation: Any) -> list:
    """The types of a union, nested ones too; that of any other annotation."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [part for inner in get_args(annotation) for part in _parts(inner)]
    return [type(None) if annotation is None else annotation]


def _name(part: Any) -> str:
    if get_origin(part) is Literal:
        return ' or '.join(map(repr, get_args(part)))
    return str(getattr(part, '__name__', part))
