"""Split a data folder that has no split: keep similar images together, with a seed.

Frames of one video look alike, and so do Roboflow's augmented copies of an image. If such images
were in both parts, the validation score would be too high. Their file names show the groups.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import PurePosixPath
from typing import NamedTuple

SHARE = 0.2  # of the images, for validation
SHARES = 0.1, 0.4  # smallest and largest share in a split by sequences
TRIALS = 50
BLOCKS = 10  # of consecutive frames, if all images belong to one sequence
_ROBOFLOW = re.compile(r'(?:_(?:jpe?g|png|bmp|webp|tiff?))?\.rf\.\w+$', re.IGNORECASE)
_NUMBER = re.compile(r'^(.*?)[ _.\-]*\(?(\d+)\)?$')


class Halves(NamedTuple):
    """Image ids of the two parts, and how the images were grouped."""

    train: set[int]
    val: set[int]
    description: str


def source_of(name: str) -> str:
    """The name of the original image: the same for all copies that Roboflow augmented."""
    path = PurePosixPath(name)
    return str(path.with_name(_ROBOFLOW.sub('', path.stem)))


def sequence_of(name: str) -> str:
    """The sequence of an image: its folder and its name without the number at the end."""
    source = PurePosixPath(source_of(name))
    match = _NUMBER.match(source.name)
    return str(source.with_name(match[1] or '0') if match else source)


def split_images(raw: dict, seed: int = 0) -> Halves:
    """Split the images of a COCO dictionary: about a fifth, and at least one, for validation.

    If there are several sequences, each is kept in one part, provided that 10% to 40% of the images
    are for validation and no class is missing in training. Frames of a single video are split by
    blocks of consecutive frames. Otherwise only the copies of an image are kept together.

    Args:
        raw: a dictionary with images (at least 2), annotations and categories.
        seed: seed of the random order.
    """
    names = {image['id']: image['file_name'] for image in raw['images']}
    classes: dict[int, set[int]] = {image_id: set() for image_id in names}
    for annotation in raw['annotations']:
        classes[annotation['image_id']].add(annotation['category_id'])
    sequences = {image_id: sequence_of(name) for image_id, name in names.items()}
    sources = {image_id: source_of(name) for image_id, name in names.items()}
    has_sequences = max(Counter(sequences.values()).values()) > 1
    no_groups = 'their names show no sequences'
    if has_sequences:
        no_groups = 'all names belong to one sequence (if it is a video, split it yourself)'
    if has_sequences and len(set(sequences.values())) > 1:
        halves = _split(sequences, classes, seed, 'sequences that the image names show')
        share = len(halves.val) / len(names)
        has_objects = any(classes[image_id] for image_id in halves.val)
        enough = SHARES[0] <= share <= SHARES[1] and has_objects
        if enough and not _absent(halves.train, halves.val, classes):
            return halves
        no_groups = 'the sequences that their names show are too long, or the only ones of a class'
    elif has_sequences and _is_video(sequences) and len(names) >= 2 * BLOCKS:
        ordered = sorted(names, key=lambda image_id: _frame(names[image_id]))
        blocks = {
            image_id: str(position * BLOCKS // len(names))
            for position, image_id in enumerate(ordered)
        }
        return _split(blocks, classes, seed, 'blocks of consecutive frames of one video')
    copies = len(set(sources.values())) < len(names)
    kind = 'images with all their copies' if copies else f'images; {no_groups}'
    return _split(sources, classes, seed, kind)


def _is_video(sequences: dict[int, str]) -> bool:
    return 'frame' in next(iter(sequences.values())).lower()


def _frame(name: str) -> tuple[int, str]:
    match = _NUMBER.match(PurePosixPath(source_of(name)).name)
    return (int(match[2]) if match else 0), name


def _split(group_of: dict[int, str], classes: dict[int, set[int]], seed: int, kind: str) -> Halves:
    """Try several random orders of the groups, and take the best split.

    It has the fewest classes missing in training, then in validation, then the share nearest to
    `SHARE`.
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
            count = len(val) + len(groups[group])  # the groups are disjoint
            if count < len(group_of) and (not val or count <= wanted):
                val |= groups[group]
        train = set(group_of) - val
        missing = _absent(train, val, classes), _absent(val, train, classes)
        score = (*missing, abs(len(val) - wanted))
        if best is None or score < best[0]:
            best = score, train, val
    assert best is not None
    number = f'{len(groups):,} ' if len(groups) < len(group_of) else ''
    return Halves(best[1], best[2], f'by {number}{kind}')


def _absent(part: set[int], rest: set[int], classes: dict[int, set[int]]) -> int:
    """The number of classes of `rest` that `part` does not have."""
    present = set().union(*(classes[image_id] for image_id in part))
    return len(set().union(*(classes[image_id] for image_id in rest)) - present)
