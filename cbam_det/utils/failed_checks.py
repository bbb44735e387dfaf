"""Read the condition that failed from the source line at which an error was raised.

Many checks of mmdet and torch have no message (`assert style in ['pytorch', 'caffe']`), or one
without the permitted values (`if depth not in self.arch_settings: raise KeyError(...)`) or without
the option (`if not 0.0 <= lr: raise ValueError(f'Invalid learning rate: {lr}')`).
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

OPPOSITES: dict[type, type] = {
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_UNKNOWN = object()  # the value of an expression that is not evaluated


@dataclass(frozen=True)
class FailedCheck:
    """The condition of an `assert` or of the `if` around a `raise`, or a look-up in a dictionary.

    Attributes:
        text: the condition of an `assert` as in the source, or of a `raise` in a form that permits
            the value; '' for look-ups and for conditions that themselves raised the error.
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
    test, text = condition
    nodes = list(ast.walk(test))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    for node in nodes:
        value, values = _membership(node, frame)
        # Not hashable, or compared with an array; the code of a user's class can raise any error.
        with contextlib.suppress(Exception):
            if values and value is not _UNKNOWN and value not in values:
                return FailedCheck(text or '', frozenset(names), value, tuple(values))
    return None if text is None else FailedCheck(text, frozenset(names))


def _condition(frame: FrameType, line: int) -> tuple[ast.AST, str | None] | None:
    """The condition at a line, and its text for `FailedCheck`, None where nothing is checked."""
    try:
        lines, first = inspect.getsourcelines(frame.f_code)
        tree = ast.parse(textwrap.dedent(''.join(lines)))
    except Exception:  # of many kinds, if there is no source or it was changed since the import
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
        return around[-1].test, ast.unparse(around[-1].test)
    if not isinstance(around[-1], ast.Raise):
        if isinstance(around[-1], ast.If):
            return around[-1].test, ''  # the condition itself raised the error
        return None if hasattr(around[-1], 'body') else (around[-1], None)
    choice = next((node for node in reversed(around) if isinstance(node, ast.If)), None)
    if choice is None:
        return None
    in_else = any(node in around for node in choice.orelse)
    return choice.test, ast.unparse(choice.test if in_else else _negated(choice.test))


def _negated(test: ast.expr) -> ast.expr:
    """The opposite of a condition, in the form in which it is easiest to read."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return test.operand
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        opposite = OPPOSITES.get(type(test.ops[0]))
        if opposite:
            return ast.Compare(test.left, [opposite()], test.comparators)
    return ast.UnaryOp(ast.Not(), test)


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
    except Exception:  # ValueError for other expressions, TypeError for an unhashable key
        return _UNKNOWN
