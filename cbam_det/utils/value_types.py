"""Check that the value of a config has an annotated type, and describe an error in one line."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

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
    """A value of a config's dictionary, whose type is checked.

    Args:
        node: the dictionary.
        key: the key of the value.
        wanted: the type, an annotation such as `str | None`.
        place: the key path of the dictionary, for the message.
        default: the value if the key is missing.

    Raises:
        InputError: the value has another type.
    """
    value = node.get(key, default)
    if fits(value, wanted):
        return value
    if key not in node:
        raise InputError(f'{place or "the config"} has no {key}; give {words_of(wanted)}')
    raise wrong_type(f'{place}.{key}'.lstrip('.'), value, wanted)


def wrong_type(path: str, value: object, wanted: Any) -> InputError:
    """The error for a value whose type is not `wanted`."""
    return InputError(f'{path}={shortened(value)} is {kind_word(value)}; give {words_of(wanted)}')


def shortened(value: object) -> str:
    """A value as it is written in a config, shortened if it has more than 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f'{text[:77]}...'


def kind_word(value: object) -> str:
    """The type of a value in words, such as 'a list'."""
    kind = type(value)
    if kind is bool:
        return 'a boolean'
    return WORDS.get(kind) or ('a dictionary' if isinstance(value, dict) else f'a {kind.__name__}')


def words_of(annotation: Any) -> str:
    """An annotation in words, such as 'a dictionary or None'."""
    parts = {part: get_origin(part) or part for part in parts_of(annotation)}
    words = [WORDS[kind] for kind in parts.values() if kind in WORDS]
    words = list(dict.fromkeys(words or map(_name, parts)))
    return ' or '.join([', '.join(words[:-1]), words[-1]] if words[1:] else words)


def fits(value: object, annotation: Any) -> bool:
    """Whether a value has an annotated type; for a container, also whether its elements do.

    An annotation that cannot be checked accepts every value.
    """
    parts = parts_of(annotation)
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
        return isinstance(value, int) and value in (0, 1)  # True and False are ints, too
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    if kind is Path:
        kind = (str, Path)
    return isinstance(value, kind)


def parts_of(annotation: Any) -> list:
    """The types of a union, including nested unions; for another annotation, a list of it alone."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [part for inner in get_args(annotation) for part in parts_of(inner)]
    return [type(None) if annotation is None else annotation]


def _name(part: Any) -> str:
    if get_origin(part) is Literal:
        return ' or '.join(map(repr, get_args(part)))
    return str(getattr(part, '__name__', part))
