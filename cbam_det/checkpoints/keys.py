"""Keys of weights on their way: which CBAMs a state dict has, and renaming by templates."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from ..utils.errors import InputError, first_few
from .formats import GATE, TOKENS


@dataclass
class Item:
    """A value on its way: its key at the start ('' if new) and what was done to it."""

    source: str
    value: Tensor
    changes: tuple[str, ...] = ()


def cbam_roots(keys: Iterable[str]) -> list[str]:
    """The prefix of each of our CBAMs, with the dot at its end; '' for a single module."""
    return list(dict.fromkeys(match['root'] for match in map(GATE.fullmatch, keys) if match))


def is_module(keys: Iterable[str]) -> bool:
    """Whether the keys are those of one CBAM alone."""
    return cbam_roots(keys) == ['']


def last_norm(keys: Iterable[str]) -> int:
    """The number of a block's last norm: 3 in bottlenecks, 2 in BasicBlocks."""
    return 3 if any(re.search(r'(^|\.)layer\d\.\d+\.conv3\.', key) for key in keys) else 2


def renamer(pairs: Iterable[tuple[str, str]]) -> Callable[[str], str | None]:
    """A function that renames a key by the first pair of templates that fits, or returns None.

    A template has names of `TOKENS` in braces, as in `layer{s}.{b}.conv{i}.weight`.
    """
    compiled = []
    for old, new in pairs:
        parts = re.split(r'\{(\w+)\}', old)
        parts[::2] = map(re.escape, parts[::2])
        parts[1::2] = (f'(?P<{name}>{TOKENS[name]})' for name in parts[1::2])
        compiled.append((re.compile(''.join(parts)), new))

    def rename(key: str) -> str | None:
        for pattern, new in compiled:
            if match := pattern.fullmatch(key):
                values: dict[str, str | int] = dict(match.groupdict())
                if 'b1' in values:
                    values['b'] = int(values['b1']) - 1
                elif 'b' in values:
                    values['b1'] = int(values['b']) + 1
                return new.format(**values)
        return None

    return rename


def renamed(
    items: dict[str, Item], rename: Callable[[str], str | None], fault: Callable[[str], str]
) -> dict[str, Item]:
    """Items by their new names.

    Raises:
        InputError: a key has no new name, and `fault(key)` is the reason; two have the same.
    """
    names: dict[str, str] = {}
    unexplained = []
    for key in items:
        name = rename(key)
        if name is None:
            unexplained.append(key)
        else:
            names[key] = name
    if unexplained:
        raise InputError(f'{first_few(unexplained)}: {fault(unexplained[0])}')
    if duplicates := [name for name, count in Counter(names.values()).items() if count > 1]:
        raise InputError(f'several keys become {first_few(duplicates)}; leave in one of them')
    return {names[key]: item for key, item in items.items()}
