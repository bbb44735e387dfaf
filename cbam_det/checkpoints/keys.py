"""Find the CBAMs in the keys of a state dict, and rename keys by templates."""

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
    """A weight during a conversion: its original key ('' if it is new), value and changes."""

    source: str
    value: Tensor
    changes: tuple[str, ...] = ()


def cbam_roots(keys: Iterable[str]) -> list[str]:
    """The prefix of each of our CBAMs with its final dot; '' for a single module."""
    return list(dict.fromkeys(match['root'] for match in map(GATE.fullmatch, keys) if match))


def is_module(keys: Iterable[str]) -> bool:
    """Whether the keys are those of a single CBAM."""
    return cbam_roots(keys) == ['']


def last_norm(keys: Iterable[str]) -> int:
    """The number of a block's last norm: 3 in bottlenecks, 2 in BasicBlocks."""
    return 3 if any(re.search(r'(^|\.)layer\d\.\d+\.conv3\.', key) for key in keys) else 2


def renamer(pairs: Iterable[tuple[str, str]]) -> Callable[[str], str | None]:
    """Make a function that renames a key by the first template that matches; None if none does.

    Templates have names of `TOKENS` in braces, as in `layer{s}.{b}.conv{i}.weight`.
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
                return new.format(**values)
        return None

    return rename


def renamed(
    items: dict[str, Item], rename: Callable[[str], str | None], fault: Callable[[str], str]
) -> dict[str, Item]:
    """The items with their new names.

    Raises:
        InputError: a key has no new name, with the reason `fault(key)`, or two have the same.
    """
    names: dict[str, str] = {}
    unknown = []
    for key in items:
        name = rename(key)
        if name is None:
            unknown.append(key)
        else:
            names[key] = name
    if unknown:
        raise InputError(f'{first_few(unknown)}: {fault(unknown[0])}')
    if duplicates := [name for name, count in Counter(names.values()).items() if count > 1]:
        raise InputError(f'several keys become {first_few(duplicates)}; keep only one of them')
    return {names[key]: item for key, item in items.items()}
