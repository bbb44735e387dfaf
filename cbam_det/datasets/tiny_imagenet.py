"""Write the lists with which mmpretrain reads the unpacked archive of Tiny-ImageNet.

200 classes, 64 x 64 pixels: 500 training and 50 validation images of each class. The archive's test
images have no labels and are not used. Source: Stanford's course CS231n, tiny-imagenet-200.zip.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ..utils.errors import InputError, first_few
from ..utils.files import atomic_write, try_writing
from .validation.images import decode_all

CLASSES, TRAIN, VAL = 200, 500, 50  # classes, and images of each class
LAYOUT = 'wnids.txt, train/WNID/images/*.JPEG, val/val_annotations.txt and val/images/*.JPEG'
REMEDY = f'unpack tiny-imagenet-200.zip again, into an empty folder; expected {LAYOUT}'


def write_lists(root: str | Path) -> dict[str, int]:
    """Write `meta/train.txt` and `meta/val.txt` with a path and a label per line.

    Labels number the classes in the order of their WordNet ids, from 0. Every image is decoded
    first, with a progress bar. Images are neither copied nor changed.

    Args:
        root: the folder tiny-imagenet-200.

    Returns:
        The number of images by list, 'train' and 'val'.

    Raises:
        InputError: the folder lacks a file, a class or images, has a class or an image twice or a
            list with other lines, or cannot be written to; a label is unknown; or an image cannot
            be decoded. In that case nothing is written.
    """
    root = Path(root)
    path = root / 'wnids.txt'
    wnids = sorted(_read(path).split())
    _refuse_repeated(path, wnids)
    if len(wnids) != CLASSES:
        raise InputError(f'{path} lists {len(wnids)} classes, not {CLASSES}; {REMEDY}')
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    entries = {'train': _train_images(root, labels), 'val': _val_images(root, labels)}
    lists = {
        root / 'meta' / f'{split}.txt': ''.join(f'{image} {label}\n' for image, label in images)
        for split, images in entries.items()
    }
    _check_lists(lists)
    paths = {split: [str(root / path) for path, _ in images] for split, images in entries.items()}
    decoded = decode_all([*paths['train'], *paths['val']], f'decoding the images of {root}')
    faults = [f'{path} ({image.fault[1]})' for path, image in decoded.items() if image.fault]
    if faults:
        raise InputError(f'{len(faults)} images cannot be used: {first_few(faults)}; {REMEDY}')
    for path, text in lists.items():
        path.parent.mkdir(exist_ok=True)
        with atomic_write(path) as part:
            part.write_text(text, encoding='utf-8')
    return {split: len(images) for split, images in entries.items()}


def _read(path: Path) -> str:
    if not path.is_file():
        raise InputError(f'no file {path}; {REMEDY}')
    try:
        return path.read_text(encoding='utf-8')
    except UnicodeDecodeError as error:
        raise InputError(f'{path} is not a text in UTF-8 ({error}); {REMEDY}') from None


def _refuse_repeated(path: Path, names: list[str]) -> None:
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f'{path} lists {first_few(repeated)} more than once; {REMEDY}')


def _check_lists(lists: dict[Path, str]) -> None:
    """Raise InputError if lists cannot be written, or would replace others; by path their text."""
    for path, text in lists.items():
        try:
            try_writing(path.parent)
        except OSError as error:
            raise InputError(
                f'{path} cannot be written ({error.filename}: {error.strerror}); make this a '
                'folder that you can write to, or copy the data to such a folder'
            ) from None
        if path.exists() and not (path.is_file() and path.read_bytes() == text.encode()):
            raise InputError(
                f'{path} exists, but does not have the lines that this archive needs; move or '
                'remove it'
            )


def _train_images(root: Path, labels: dict[str, int]) -> list[tuple[str, int]]:
    images = [
        (path.relative_to(root).as_posix(), label)
        for wnid, label in labels.items()
        for path in sorted((root / 'train' / wnid / 'images').glob('*.JPEG'))
    ]
    numbered = {
        f'train/{wnid}/images/{wnid}_{number}.JPEG' for wnid in labels for number in range(TRAIN)
    }
    extra = [path for path, _ in images if path not in numbered]
    if extra and len(images) > len(numbered):
        raise InputError(
            f'{root} has {len(images)} training images, not {len(numbered)}; remove those that the '
            f'archive does not have: {first_few(extra)}'
        )
    _compare_counts(root / 'train', images, labels, TRAIN)
    return images


def _val_images(root: Path, labels: dict[str, int]) -> list[tuple[str, int]]:
    path = root / 'val' / 'val_annotations.txt'
    images = []
    for number, line in enumerate(_read(path).splitlines(), 1):
        name, wnid, *_ = [*line.split('\t'), '', '']
        if wnid not in labels:
            raise InputError(f'{path}, line {number}: class {wnid!r} is not in wnids.txt; {REMEDY}')
        images.append((f'val/images/{name}', labels[wnid]))
    _refuse_repeated(path, [image for image, _ in images])
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
