"""The options that a class or a function takes, by its signature and its annotations."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


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
