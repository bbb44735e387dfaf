"""A split where a data folder has none: by groups of images that their names show, seeded.

Frames of one video look alike, and so do the copies of an image that Roboflow augments: with one of
them in the training and another in the validation, the score tells of memory.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import PurePosixPath
from typing import NamedTuple

SHARE = 0.2  # of the images, for the validation
SHARES = 0.1, 0.4  # what a split by sequences may have
TRIALS = 50
BLOCKS = 10  # of consecutive frames, where all images are of one sequence
_ROBOFLOW = re.compile(r'(?:_(?:jpe?g|png|bmp|webp|tiff?))?\.rf\.\w+$', re.IGNORECASE)
_NUMBER = re.compile(r'^(.*?)[ _.\-]*\(?(\d+)\)?$')


class Halves(NamedTuple):
    """Ids of the images of each part, and how they were grouped."""

    train: set[int]
    val: set[int]
    description: str


def source_of(name: str) -> str:
    """The image that a file is of: the same for the copies that Roboflow augments."""
    path = PurePosixPath(name)
    return str(path.with_name(_ROBOFLOW.sub('', path.stem)))


def sequence_of(name: str) -> str:
    """The sequence that a file is of: its folder and its name without the number at its end."""
    source = PurePosixPath(source_of(name))
    match = _NUMBER.match(source.name)
    return str(source.with_name(match[1] or '0') if match else source)


def split_images(raw: dict, seed: int = 0) -> Halves:
    """Split the images of a COCO dictionary: about a fifth for the validation, at least one.

    Sequences stay whole where there are several of them, a tenth to two fifths of the images come
    out and no class is missing in the training; frames of a single video are split by blocks of
    consecutive ones; other images by what they are copies of.

    Args:
        raw: with images (at least 2), annotations and categories.
        seed: of the order.
    """
    names = {image['id']: image['file_name'] for image in raw['images']}
    classes: dict[int, set[int]] = {image_id: set() for image_id in names}
    for annotation in raw['annotations']:
        classes[annotation['image_id']].add(annotation['category_id'])
    sequences = {image_id: sequence_of(name) for image_id, name in names.items()}
    sources = {image_id: source_of(name) for image_id, name in names.items()}
    many, no_groups = max(Counter(sequences.values()).values()) > 1, 'their names show no groups'
    if many and len(set(sequences.values())) > 1:
        halves = _split(sequences, classes, seed, 'sequences of images that their names show')
        share = len(halves.val) / len(names)
        if SHARES[0] <= share <= SHARES[1] and not _absent(halves.train, halves.val, classes):
            return halves
        no_groups = 'the groups that their names show are too large, or have a class of their own'
    elif many and 'frame' in next(iter(sequences.values())).lower() and len(names) >= 2 * BLOCKS:
        ordered = sorted(names, key=lambda image_id: _frame(names[image_id]))
        blocks = {
            image_id: str(position * BLOCKS // len(names))
            for position, image_id in enumerate(ordered)
        }
        return _split(blocks, classes, seed, 'blocks of consecutive frames of one video')
    copies = len(set(sources.values())) < len(names)
    kind = 'images with all their copies' if copies else f'images; {no_groups}'
    return _split(sources, classes, seed, kind)


def _frame(name: str) -> tuple[int, str]:
    match = _NUMBER.match(PurePosixPath(source_of(name)).name)
    return (int(match[2]) if match else 0), name


def _split(group_of: dict[int, str], classes: dict[int, set[int]], seed: int, kind: str) -> Halves:
    """Of several random orders of the groups the split that leaves the fewest classes out of the
    training, then out of the validation, and is nearest to the share.
    """
    groups: dict[str, set[int]] = {}
    for image_id, group in group_of.items():
        groups.setdefault(group, set()).add(image_id)
    wanted = max(1, round(SHARE * len(group_of)))
    generator, best = random.Random(seed), None
    for _ in range(TRIALS):
        order = sorted(groups)
        generator.shuffle(order)
        val: set[int] = set()
        for group in order:
            larger = val | groups[group]
            if len(larger) < len(group_of) and (not val or len(larger) <= wanted):
                val = larger
        train = set(group_of) - val
        missing = _absent(train, val, classes), _absent(val, train, classes)
        score = (*missing, abs(len(val) - wanted))
        if best is None or score < best[0]:
            best = score, train, val
    assert best is not None
    count = f'{len(groups):,} ' if len(groups) < len(group_of) else ''
    return Halves(best[1], best[2], f'by {count}{kind}')


def _absent(part: set[int], rest: set[int], classes: dict[int, set[int]]) -> int:
    """How many classes of `rest` no image of `part` has."""
    of_part = set().union(*(classes[image_id] for image_id in part))
    return len(set().union(*(classes[image_id] for image_id in rest)) - of_part)
