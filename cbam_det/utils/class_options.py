"""The options that a class or a function takes, from its signature and annotations."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


def options_of(kind: Callable) -> tuple[dict[str, Any], bool]:
    """The options of a class or a function, including those that a class passes to its bases.

    Returns:
        The annotation of each option, `Any` if it has none, and whether other options are accepted.
    """
    options: dict[str, Any] = {}
    owners = inspect.getmro(kind)[:-1] if inspect.isclass(kind) else [kind]
    functions = [
        vars(owner).get('__init__') if inspect.isclass(owner) else owner for owner in owners
    ]
    for function in filter(None, functions):
        parameters = inspect.signature(function).parameters.values()
        try:
            annotations = get_type_hints(function)
        except (NameError, TypeError, AttributeError):
            annotations = {}  # they name types that are imported only for type checkers
        named = [
            parameter.name
            for parameter in parameters
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        ]
        options = {**{name: annotations.get(name, Any) for name in named}, **options}
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
            return options, False
    return options, any(functions)
