"""Check the keys of data sets: those of mmdet 2.x, and those that the class does not take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.registry import DATASETS

from .class_options import options_of
from .config import registered_class
from .errors import InputError, first_few, near_hint
from .value_types import fits, kind_word, shortened, typed, wrong_type

# Keys of mmdet 2.x, and what replaces them in MMDetection 3.x.
OLD_DATASET_KEYS = dict(
    img_prefix='data_prefix=dict(img={value})',
    seg_prefix='data_prefix=dict(seg={value})',
    classes='metainfo=dict(classes={value})',
    filter_empty_gt='filter_cfg=dict(filter_empty_gt={value})',
    min_size='filter_cfg=dict(bbox_min_size={value})',
)
METAINFO = ('classes', 'palette')  # mmdet reads these; the class of a data set may read more


def check_dataset_keys(node: Mapping, place: str) -> None:
    """Check a data set for keys in the form of mmdet 2.x, and for unknown keys.

    Args:
        node: its dictionary in a config.
        place: its key path, for the message.

    Raises:
        InputError: `ann_file` is a list, `data_prefix` is a folder instead of a dictionary, or a
            key is one of mmdet 2.x or one that the data set's class does not take.
    """
    if 'type' not in node:
        raise InputError(f"{place} has no type; give one, for example {place}.type='CocoDataset'")
    known, others = _options(node)
    files = node.get('ann_file')
    if 'ann_file' in node and not fits(files, known.get('ann_file', Any)):
        if fits(files, list[str]) and files:
            raise joined_sets(place, [dict(ann_file=file) for file in files], 'ann_file')
        raise wrong_type(f'{place}.ann_file', files, known['ann_file'])
    prefix = node.get('data_prefix')
    name = str(getattr(node['type'], '__name__', node['type']))
    if isinstance(prefix, str) and not fits(prefix, known.get('data_prefix', dict)):
        key = 'sub_data_root' if 'XML' in name or 'VOC' in name else 'img'
        raise InputError(
            f'{place}.data_prefix={prefix!r} is a string; give a dictionary: '
            f'data_prefix=dict({key}={prefix!r})'
        )
    if isinstance(prefix, Mapping):
        for key in prefix:
            typed(prefix, key, str | None, f'{place}.data_prefix')
    for key in () if others else node:
        if key in (*known, 'type', '_scope_'):
            continue
        if key in OLD_DATASET_KEYS:
            new = OLD_DATASET_KEYS[key].format(value=repr(node[key]))
            raise InputError(f'{place}.{key} is a key of mmdet 2.x; MMDetection 3.x has {new}')
        raise InputError(f'{place}.{key} is not an option of {name}{near_hint(str(key), known)}')


def checked_metainfo(node: Mapping, place: str) -> Mapping:
    """The metainfo of a data set, {} if it has none.

    Raises:
        InputError: its classes have no order or are not names, or a key is upper-case or misspelt.
    """
    metainfo = typed(node, 'metainfo', dict | None, place) or {}
    for key in metainfo:
        near = near_hint(str(key).lower(), METAINFO, 0.8)
        if key not in METAINFO and near:
            raise InputError(f'{place}.metainfo.{key} is unknown to mmdet{near}')
    classes = metainfo.get('classes')
    if classes is None or isinstance(classes, str):
        return metainfo  # a file, which is checked when it is read
    path = f'{place}.metainfo.classes'
    if not isinstance(classes, (list, tuple)):
        names = f'give the names in their order, {path}=({first_few(_names(classes))})'
        order = ', which has no order' if isinstance(classes, (set, frozenset)) else ''
        raise InputError(f'{path}={shortened(classes)} is {kind_word(classes)}{order}; {names}')
    seen: set[str] = set()
    for number, name in enumerate(classes):
        if not isinstance(name, str):
            raise InputError(f'{path}.{number}={shortened(name)} is {kind_word(name)}; give a name')
        if name in seen:
            raise InputError(f'{path}.{number}={name!r} is listed twice; list each class once')
        seen.add(name)
    return metainfo


def joined_sets(place: str, sets: Sequence[Mapping], key: str = '') -> InputError:
    """The error for a list of data sets or annotation files that lacks the wrapper of 3.x."""
    files = [f'dict(..., ann_file={node.get("ann_file", "")!r})' for node in sets]
    path = f'{place}.{key}' if key else place
    return InputError(
        f'{path} is a list, as in mmdet 2.x; MMDetection 3.x joins data sets with a wrapper: '
        f"{place}=dict(type='ConcatDataset', datasets=[{first_few(files, 2)}])"
    )


def _options(node: Mapping) -> tuple[dict[str, Any], bool]:
    """The options of a data set's class, and whether it takes others; an unknown class does."""
    kind = registered_class(DATASETS, node['type'])
    return options_of(kind) if kind else ({}, True)


def _names(classes: object) -> list[str]:
    if isinstance(classes, (set, frozenset)):
        return sorted(repr(name) for name in classes)
    return ["'cat'", "'dog'"]
