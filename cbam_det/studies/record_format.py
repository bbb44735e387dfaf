"""What a line of JSON must have to be the record of a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from ..utils.errors import InputError


def is_number(value: object) -> bool:
    """Whether a value of JSON or YAML is a finite number; true and NaN are none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < math.inf


def is_score(value: object) -> bool:
    """Whether a value is what records have for a metric: a finite number, or None."""
    return value is None or is_number(value)


class Kind(NamedTuple):
    """What a value in a record must be, and what the values of an object must be."""

    description: str
    is_valid: Callable[[object], bool]
    items: Kind | None = None


STRING = Kind('a string', lambda value: isinstance(value, str))
NUMBER = Kind('a number', is_number)
OBJECT = Kind('an object', lambda value: isinstance(value, dict))
STRINGS, NUMBERS = OBJECT._replace(items=STRING), OBJECT._replace(items=NUMBER)
SCORES = OBJECT._replace(items=Kind('a number', is_score))
# Keys that every record must have, and those that it can have; what tables do not read is free.
RECORD_KEYS = {
    **dict.fromkeys(('run', 'row', 'config_hash'), STRING),
    **dict(environment=OBJECT, metrics=SCORES, loss=NUMBERS, train_seconds=NUMBER),
    'validation': OBJECT._replace(items=SCORES),
}
OPTIONAL_KEYS = {
    **dict.fromkeys(('commit', 'weights'), STRING),
    **dict(data=STRINGS, starts_from=STRINGS, processes=NUMBER),
}
ENVIRONMENT_KEYS = ('hardware', 'threads', 'torch')
REMEDY = 'remove the line, or restore it'


def check_record(place: str, record: object) -> None:
    """Raise InputError if a line of JSON is not a record."""
    if not isinstance(record, dict):
        raise InputError(f'{place} is not a record, but {record!r}; {REMEDY}')
    for key, kind in {**RECORD_KEYS, **OPTIONAL_KEYS}.items():
        if key in record:
            _check_value(f'{place}: {key}', record[key], kind)
        elif key in RECORD_KEYS:
            raise InputError(f'{place}: the record has no {key}; {REMEDY}')
    for key in ENVIRONMENT_KEYS:
        if key not in record['environment']:
            raise InputError(f'{place}: the record has no environment.{key}; {REMEDY}')
    for step in (*record['loss'], *record['validation']):
        if not step.isdecimal():
            raise InputError(f'{place}: {step!r} in loss or validation is not an epoch; {REMEDY}')


def _check_value(place: str, value: object, kind: Kind) -> None:
    if not kind.is_valid(value):
        raise InputError(f'{place} must be {kind.description}, not {value!r}; {REMEDY}')
    if kind.items and isinstance(value, dict):
        for key, item in value.items():
            _check_value(f'{place}.{key}', item, kind.items)
