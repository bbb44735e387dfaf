"""Check that annotations, data sets and weights have the same classes in the same order."""

from __future__ import annotations

import difflib

from ...utils.errors import InputError, first_few
from .content import Content


def compare_classes(classes: tuple[str, ...], content: Content) -> list[str]:
    """Compare the classes of a config's data set with those of its annotations.

    The annotations may have more classes than the config, which then trains on some of them. VOC
    does not list categories, so that its annotations may also have fewer; if they have other
    classes as well, they belong to another data set. COCO lists categories, and mmdet numbers the
    labels in the file's order.

    Returns:
        Notes on the classes that are ignored and those that have no objects.

    Raises:
        InputError: a class is missing, or the order differs.
    """
    names, strict = list(content.classes), not content.is_voc
    absent = [name for name in classes if name not in names]
    extra = [name for name in dict.fromkeys(names) if name not in classes]
    if absent and (strict or extra):
        similar = difflib.get_close_matches(absent[0], names, 1)
        hint = f' (did you mean {similar[0]!r}?)' if similar else ''
        raise InputError(
            f"{content.file} has no category {absent[0]!r}{hint}: {len(absent)} of the config's "
            f'{len(classes)} classes are missing, and the file has '
            f'{first_few(list(dict.fromkeys(names)), 5)}; '
            "set the data set's metainfo=dict(classes=(...)) and the head's num_classes to match"
        )
    order = [name for name in names if name in classes]
    if strict and order != list(classes):
        raise InputError(
            f'{content.file} lists the classes in another order than the config '
            f"({first_few(order, 5)}), and mmdet numbers labels in the file's order: label 0 would "
            f'be {order[0]!r} but be named {classes[0]!r}; '
            "write metainfo.classes in the file's order"
        )
    notes = []
    if extra:
        notes.append(f'classes ignored, as the config does not list them: {first_few(extra)}')
    if absent:
        notes.append(f'classes without objects: {first_few(absent)}')
    return notes


def check_same_classes(classes: dict[str, tuple[str, ...]]) -> None:
    """Check that all data sets of a config, and its weights, have the same classes in one order.

    Args:
        classes: the classes of each source, by its description; () if they are unknown.

    Raises:
        InputError: two sources differ.
    """
    known_classes = {source: names for source, names in classes.items() if names}
    reference = next(iter(known_classes), '')
    for source, names in known_classes.items():
        if names != known_classes[reference]:
            raise InputError(
                f'{source} has the classes {first_few(list(names), 5)}, but {reference} has '
                f'{first_few(list(known_classes[reference]), 5)}: labels would have wrong names '
                'and be scored as other classes; give both the same metainfo.classes in the same '
                'order'
            )
