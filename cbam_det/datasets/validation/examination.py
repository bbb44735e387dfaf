"""Examine splits: the faults of their images, published counts, and images that no file lists."""

from __future__ import annotations

import os
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

from ...utils.errors import first_few
from ..layouts.files import walk_files
from .images import ENDINGS, Decoded, file_under_another_name, pixel_notes
from .published import COCO_CLASSES, COCO_TOTALS, VOC_CLASSES, VOC_TOTALS
from .splits import AnnotatedSplit, decode_images, find_image_faults


def examine_splits(
    splits: list[AnnotatedSplit],
    description: str,
    progress: bool = True,
    allow_shared: bool = False,
    noted: Collection[Path] = (),
) -> list[AnnotatedSplit]:
    """Decode all images of splits; add their faults to the splits, and notes.

    Args:
        description: text of the progress bar.
        progress: show the progress bar.
        allow_shared: an image in two splits is not harmful.
        noted: images that are in no split for a reason which the user reads elsewhere.
    """
    decoded = decode_images(splits, description, progress)
    find_image_faults(splits, decoded, allow_shared)
    for split in splits:
        _compare_totals(split, splits)
        _add_notes(split, decoded)
    _note_unlisted(splits, noted)
    return splits


def _compare_totals(split: AnnotatedSplit, splits: list[AnnotatedSplit]) -> None:
    content = split.content
    if split.is_voc:
        published_classes, totals = VOC_CLASSES, VOC_TOTALS
    else:
        published_classes, totals = COCO_CLASSES, COCO_TOTALS
    # A COCO file lists all categories; VOC's XMLs only show those that have objects.
    classes, published = set(content.classes), set(published_classes)
    same_classes = classes <= published if split.is_voc else classes == published
    if split.name not in totals or not same_classes:
        return
    images, objects = totals[split.name]
    if 2 * len(content.images) < images:  # another data set with the same file names
        split.notes.append(
            f'{len(content.images):,} images; the published set of this name has {images:,}'
        )
        return
    for count, total, counted in (
        (len(content.images), images, 'images'),
        (content.objects, objects, 'objects'),
    ):
        if total is not None and count != total:
            message = f'lists {count:,} {counted}; the published set has {total:,}'
            if split.is_voc and (absent := _absent_of_voc2007(splits)):
                message += f'; in neither list: {first_few(absent, 9)}'
            content.add_fault('count', str(content.file), message, harmful=False)


def _absent_of_voc2007(splits: list[AnnotatedSplit]) -> list[str]:
    """The images of VOC 2007 that neither trainval nor test lists; [] if a list is missing."""
    lists = {split.name: split.content.names for split in splits}
    trainval, test = lists.get('VOC2007/trainval'), lists.get('VOC2007/test')
    if trainval is None or test is None:
        return []
    all_names = {f'{number:06}' for number in range(1, 9964)}
    return sorted(all_names - {*trainval, *test})


def _add_notes(split: AnnotatedSplit, decoded: dict[str, Decoded]) -> None:
    """Add notes on unusual pixels, on images without objects and on classes without objects."""
    images = [decoded[image.path] for image in split.content.images if image.path]
    split.notes += pixel_notes(images)
    without_objects = sum(not image.objects for image in split.content.images)
    if without_objects:
        split.notes.append(f'{without_objects:,} images have no objects')
    absent = [name for name, count in split.content.classes.items() if not count]
    if absent:
        split.notes.append(f'classes without objects: {first_few(absent)}')


def _note_unlisted(splits: list[AnnotatedSplit], noted: Collection[Path]) -> None:
    """Add a note on the images in the splits' folders that no annotation file lists."""
    listed = {_place(image.path) for split in splits for image in split.content.images}
    listed |= {_place(str(path)) for path in noted}
    for split in splits:
        for fault in split.content.faults:
            if fault.kind == 'image under another name':
                listed.add(_place(file_under_another_name(fault.place) or fault.place))
    folders = {Path(os.path.abspath(split.images)): split for split in splits}
    for folder, split in folders.items():
        if any(parent in folders for parent in folder.parents):
            continue
        paths = [
            str(path)
            for path in walk_files(folder, projects=False)
            if path.name.lower().endswith(ENDINGS)
        ]
        unlisted = [os.path.relpath(path, folder) for path in paths if _place(path) not in listed]
        if unlisted:
            split.notes.append(
                f'{len(unlisted):,} of {len(paths):,} images in {split.images} are in no '
                f'annotation file: {first_few(unlisted)}'
            )


def _place(path: str) -> str:
    """The path of a file without links to folders, which can lead to one folder by two names."""
    folder, name = os.path.split(path)
    return os.path.join(_real_folder(folder), name)


_real_folder = lru_cache(maxsize=1024)(os.path.realpath)
