"""Write the lists with which mmpretrain reads the unpacked archive of Tiny-ImageNet.

200 classes, 64 x 64 pixels: 500 training and 50 validation images of each class. The archive's test
images have no labels and are not used. Source: Stanford's course CS231n, tiny-imagenet-200.zip.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ..utils.errors import InputError, first_few
from ..utils.files import atomic_write
from .validation.images import decode_all

CLASSES, TRAIN, VAL = 200, 500, 50  # classes, and images of each class
LAYOUT = 'wnids.txt, train/WNID/images/*.JPEG, val/val_annotations.txt and val/images/*.JPEG'
REMEDY = f'unpack tiny-imagenet-200.zip again; expected {LAYOUT}'


def write_lists(root: str | Path) -> dict[str, int]:
    """Write `meta/train.txt` and `meta/val.txt` with a path and a label per line.

    Labels number the classes in the order of their WordNet ids, from 0. Every image is decoded
    first, with a progress bar. Images are neither copied nor changed.

    Args:
        root: the folder tiny-imagenet-200.

    Returns:
        The number of images by list, 'train' and 'val'.

    Raises:
        InputError: the folder lacks a file, a class or images, a label is unknown, or an image
            cannot be decoded. In that case nothing is written.
    """
    root = Path(root)
    wnids = sorted(_read_words(root / 'wnids.txt'))
    if len(set(wnids)) != CLASSES:
        raise InputError(f'{root}/wnids.txt lists {len(set(wnids))} classes, not 200; {REMEDY}')
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    entries = {'train': _train_images(root, labels), 'val': _val_images(root, labels)}
    paths = {split: [str(root / path) for path, _ in images] for split, images in entries.items()}
    decoded = decode_all([*paths['train'], *paths['val']], f'decoding the images of {root}')
    faults = [f'{path} ({image.fault[1]})' for path, image in decoded.items() if image.fault]
    if faults:
        raise InputError(f'{len(faults)} images cannot be used: {first_few(faults)}; {REMEDY}')
    for split, images in entries.items():
        path = root / 'meta' / f'{split}.txt'
        path.parent.mkdir(exist_ok=True)
        with atomic_write(path) as part:
            part.write_text(''.join(f'{image} {label}\n' for image, label in images))
    return {split: len(images) for split, images in entries.items()}


def _read_words(path: Path) -> list[str]:
    if not path.is_file():
        raise InputError(f'no file {path}; {REMEDY}')
    return path.read_text(encoding='utf-8').split()


def _train_images(root: Path, labels: dict[str, int]) -> list[tuple[str, int]]:
    images = [
        (path.relative_to(root).as_posix(), label)
        for wnid, label in labels.items()
        for path in sorted((root / 'train' / wnid / 'images').glob('*.JPEG'))
    ]
    _compare_counts(root / 'train', images, labels, TRAIN)
    return images


def _val_images(root: Path, labels: dict[str, int]) -> list[tuple[str, int]]:
    path = root / 'val' / 'val_annotations.txt'
    if not path.is_file():
        raise InputError(f'no file {path}; {REMEDY}')
    images = []
    for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
        name, wnid, *_ = [*line.split('\t'), '', '']
        if wnid not in labels:
            raise InputError(f'{path}, line {number}: class {wnid!r} is not in wnids.txt; {REMEDY}')
        images.append((f'val/images/{name}', labels[wnid]))
    _compare_counts(root / 'val', images, labels, VAL)
    return images


def _compare_counts(
    folder: Path, images: list[tuple[str, int]], labels: dict[str, int], expected: int
) -> None:
    counts = Counter(label for _, label in images)
    wrong = [
        f'{wnid} has {counts[label]}' for wnid, label in labels.items() if counts[label] != expected
    ]
    if wrong:
        raise InputError(
            f'{len(wrong)} of {CLASSES} classes in {folder} do not have {expected} images: '
            f'{first_few(wrong)}; {REMEDY}'
        )
