"""Read the condition that failed from the source line at which an error was raised.

Many checks of mmdet have no message (`assert style in ['pytorch', 'caffe']`), or one without the
permitted values (`if depth not in self.arch_settings: raise KeyError(...)`).
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import textwrap
import traceback
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

_UNKNOWN = object()  # the value of an expression that is not evaluated


@dataclass(frozen=True)
class FailedCheck:
    """The condition of an `assert` or of the `if` around a `raise`, or a look-up in a dictionary.

    Attributes:
        text: the condition of an `assert` as in the source, '' for others.
        names: the variables and attributes in the condition.
        value: the value that is not permitted; None if the condition is not about membership.
        permitted: the permitted values, () if they are unknown.
    """

    text: str
    names: frozenset[str]
    value: object = None
    permitted: tuple[object, ...] = ()


def failed_check(error: BaseException) -> FailedCheck | None:
    """The check in the innermost frame of an error's traceback; None if its source has none."""
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames:
        return None
    frame, line = frames[-1]
    condition = _condition(frame, line)
    if condition is None:
        return None
    test, is_assert = condition
    nodes = list(ast.walk(test))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    text = ast.unparse(test) if is_assert else ''
    for node in nodes:
        value, values = _membership(node, frame)
        with contextlib.suppress(TypeError):  # the value is not hashable
            if values and value is not _UNKNOWN and value not in values:
                return FailedCheck(text, frozenset(names), value, tuple(values))
    return FailedCheck(text, frozenset(names)) if text else None


def _condition(frame: FrameType, line: int) -> tuple[ast.AST, bool] | None:
    """The condition at a line, and whether it is that of an `assert`."""
    try:
        lines, first = inspect.getsourcelines(frame.f_code)
        tree = ast.parse(textwrap.dedent(''.join(lines)))
    except (OSError, SyntaxError):
        return None
    line -= max(first, 1) - 1
    around: list[ast.stmt] = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]
    around.sort(key=lambda node: node.lineno)
    if not around:
        return None
    if isinstance(around[-1], ast.Assert):
        return around[-1].test, True
    if not isinstance(around[-1], ast.Raise):
        return (around[-1], False) if not hasattr(around[-1], 'body') else None
    test = next((node.test for node in reversed(around) if isinstance(node, ast.If)), None)
    return None if test is None else (test, False)


def _membership(node: ast.AST, frame: FrameType) -> tuple[Any, Collection]:
    """What is looked up, and where, in `a in b`, `a not in b` or `b[a]` of a dictionary b."""
    kinds: tuple = (list, tuple, set, frozenset, Mapping)
    if isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.In, ast.NotIn)):
        left, container = node.left, node.comparators[0]
    elif isinstance(node, ast.Subscript):
        left, container, kinds = node.slice, node.value, (Mapping,)
    else:
        return _UNKNOWN, ()
    values: Any = _value(container, frame)
    return _value(left, frame), values if isinstance(values, kinds) else ()


def _value(node: ast.AST, frame: FrameType) -> Any:
    """The value of a name, an attribute or a literal in a frame; else `_UNKNOWN`."""
    if isinstance(node, ast.Name):
        return {**frame.f_globals, **frame.f_locals}.get(node.id, _UNKNOWN)
    if isinstance(node, ast.Attribute):
        return inspect.getattr_static(_value(node.value, frame), node.attr, _UNKNOWN)
    try:
        return ast.literal_eval(node)
    except ValueError:
        return _UNKNOWN
