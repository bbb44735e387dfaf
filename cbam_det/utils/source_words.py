"""The words in the source code of classes; code that lacks the word of a key does not read it."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterable


def source_words(kinds: Iterable[type], modules: Iterable[str] = ()) -> frozenset[str]:
    """Every word in the source files of classes and of their base classes, except torch's.

    Args:
        kinds: the classes.
        modules: the names of other modules that the classes call.
    """
    names = {base.__module__ for kind in kinds for base in kind.__mro__}
    names = {name for name in names if name.partition('.')[0] not in ('torch', 'builtins')}
    return _words(frozenset({*names, *modules}))


@functools.cache
def _words(modules: frozenset[str]) -> frozenset[str]:
    words: set[str] = set()
    for name in modules:
        path = getattr(sys.modules.get(name), '__file__', None)
        if path and path.endswith('.py'):
            with open(path, encoding='utf-8') as file:
                words.update(re.findall(r'\w+', file.read()))
    return frozenset(words)
