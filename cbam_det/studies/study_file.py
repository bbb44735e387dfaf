"""Read the YAML file of a study, and check its keys, the types of its values, and its overrides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..utils.errors import InputError, first_few
from ..utils.options import parse_options, written
from .record_format import is_number

MERGE_TAG = 'tag:yaml.org,2002:merge'


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _are_seeds(value: Any) -> bool:
    is_list = isinstance(value, list) and all(type(seed) is int and seed >= 0 for seed in value)
    return is_list and len({*value}) == len(value) > 0


def _are_rows(value: Any) -> bool:
    return isinstance(value, dict) and len(value) > 0


def _mapping_to(is_valid: Callable[[Any], bool], fewest: int = 0) -> Callable[[Any], bool]:
    def is_mapping(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and len(value) >= fewest
            and all(_is_text(key) and is_valid(item) for key, item in value.items())
        )

    return is_mapping


# What a value must be, in words, and whether it is that; by key. All other keys hold strings.
Kind = tuple[str, Callable[[Any], bool]]
TEXT: Kind = ('a string, if necessary in quotes', _is_text)
COUNT: Kind = ('a whole number from 1 on', _is_count)
OPTIONS: Kind = ('a mapping whose keys are strings', _mapping_to(lambda value: True))
FIGURES: Kind = ('a mapping of names to numbers', _mapping_to(is_number))
METRICS: Kind = (
    'a mapping of names to keys of the log, with one entry or more',
    _mapping_to(_is_text, fewest=1),
)
KINDS: dict[str, Kind] = {
    'rows': ('a mapping with one entry or more', _are_rows),
    'metrics': METRICS,
    'weights': ('a mapping of keys of the config to rows', _mapping_to(_is_text)),
    'options': OPTIONS,
    'overrides': OPTIONS,
    'paper': FIGURES,
    'mmdet': FIGURES,
    'images': COUNT,
    'gpus': COUNT,
    'seeds': ('a list of different whole numbers from 0 on', _are_seeds),
    'scale': ('a number', is_number),
}


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML without duplicate keys: of two rows with one name, the first would be lost.

    They are looked for before a merge (`<<: *row`), whose keys can be given again.
    """

    def compose_mapping_node(self, anchor: dict[str, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = [
            self.construct_object(key)
            for key, _ in node.value
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE_TAG
        ]
        if duplicates := [key for number, key in enumerate(keys) if key in keys[:number]]:
            raise yaml.YAMLError(
                f'duplicate key {first_few(list(map(repr, duplicates)))}{node.start_mark}'
            )
        return node


def read_yaml(path: Path, known: set[str], required: set[str]) -> dict:
    """The content of a study's file; its rows are not checked yet.

    Args:
        known: keys that it can have.
        required: keys that it must have.

    Raises:
        InputError: it is not YAML, a key is unknown, missing or duplicate, a value has the wrong
            type, the name of a row is not a string, or `--cfg-options` cannot pass an option.
    """
    try:
        content = yaml.load(path.read_text(encoding='utf-8'), _UniqueKeyLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f'{path} cannot be read as YAML ({error})'.replace('\n', ' ')) from None
    check_values(str(path), content, known, required)
    for name in content['rows']:
        if not isinstance(name, str):  # such as 3, no or yes
            raise InputError(
                f'{path}: the name of the row {name!r} must be a string; write it in quotes'
            )
    return content


def check_values(place: str, values: object, known: set[str], required: set[str]) -> None:
    """Check the keys and the types of the values of a study or of a row.

    Args:
        place: the file, and for a row its name, for messages.

    Raises:
        InputError: see `read_yaml`.
    """
    keys = set(values) if isinstance(values, dict) else set()
    if not isinstance(values, dict) or not required <= keys <= known:
        raise InputError(
            f'{place}: the keys must include {", ".join(sorted(required))} and be among '
            f'{", ".join(sorted(known))}, not {", ".join(sorted(map(str, keys))) or values!r}'
        )
    for key, value in values.items():
        description, is_valid = KINDS.get(key, TEXT)
        if not is_valid(value):
            raise InputError(f'{place}: {key} must be {description}, not {value!r}')
    for key in ('options', 'overrides'):
        _check_options(f'{place}, {key}', values.get(key, {}))


def _check_options(place: str, options: Mapping[str, object]) -> None:
    """Raise InputError if the tools would read another value from `--cfg-options`."""
    for key, value in options.items():
        read = parse_options([f'key={written(value)}'])['key']
        remedy = 'write it in the config instead'
        if isinstance(value, dict):
            remedy = (
                f'write its keys with dots, such as {key}.{next(iter(value), "KEY")}, or {remedy}'
            )
        elif isinstance(value, str):  # YAML reads 1e-3 as a text
            remedy = f'write {yaml.safe_dump(read, default_flow_style=True).splitlines()[0]}'
        if read != value:
            raise InputError(
                f'{place}.{key} is {value!r}, which --cfg-options cannot pass ({read!r}); {remedy}'
            )
