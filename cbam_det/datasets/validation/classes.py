"""Whether annotations, data sets, heads and weights mean the same classes in the same order."""

from __future__ import annotations

import difflib

from ...utils.errors import InputError, first_few
from .content import Content


def compare_classes(classes: tuple[str, ...], content: Content) -> list[str]:
    """Compare the classes of a config's data set with those of its annotations.

    Annotations may have more classes than the config (training on some of them) and, where they
    list no categories (VOC), fewer. Absent and foreign ones together mean another data set. Where
    they list them (COCO), mmdet numbers the labels in that order.

    Returns:
        What is ignored and what is absent, in words.

    Raises:
        InputError: a class is absent, or they are in another order.
    """
    names, strict = list(content.classes), not content.is_voc
    absent = [name for name in classes if name not in names]
    extra = [name for name in dict.fromkeys(names) if name not in classes]
    if absent and (strict or extra):
        similar = difflib.get_close_matches(absent[0], names, 1)
        hint = f' ({similar[0]!r} is near)' if similar else ''
        raise InputError(
            f'{content.file} has no category {absent[0]!r}{hint}; '
            f'{len(absent)} of the {len(classes)} classes of the config are absent; it has '
            f'{first_few(list(dict.fromkeys(names)), 5)}; '
            "set the data set's metainfo=dict(classes=(...)) and the head's num_classes to fit"
        )
    order = [name for name in names if name in classes]
    if strict and order != list(classes):
        raise InputError(
            f'{content.file} lists the classes in another order ({first_few(order, 5)}), by which '
            f'mmdet numbers them: label 0 would be {order[0]!r} and be called '
            f'{classes[0]!r}; '
            "put metainfo.classes in the file's order"
        )
    notes = []
    if extra:
        notes.append(f'ignored, since the config leaves them out: {first_few(extra)}')
    if absent:
        notes.append(f'no object of {first_few(absent)}')
    return notes


def check_same_classes(classes: dict[str, tuple[str, ...]]) -> None:
    """Check that all data sets of a config, and its weights, number the same classes alike.

    Args:
        classes: of each, by what it is; () where they are unknown.

    Raises:
        InputError: two differ.
    """
    known_classes = {source: names for source, names in classes.items() if names}
    reference = next(iter(known_classes), '')
    for source, names in known_classes.items():
        if names != known_classes[reference]:
            raise InputError(
                f'{source} has the classes {first_few(list(names), 5)}, but {reference} '
                f'{first_few(list(known_classes[reference]), 5)}: a label would be called by '
                'another name, and scored as another class; give both the same metainfo.classes, '
                'in one order'
            )
