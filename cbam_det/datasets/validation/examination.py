"""What is good to know of splits beside their faults: counts, notes, images that no file lists."""

from __future__ import annotations

import os

from ...utils.errors import first_few
from .images import ENDINGS, Decoded, file_under_another_name, pixel_notes
from .published import COCO_CLASSES, COCO_TOTALS, VOC_CLASSES, VOC_TOTALS
from .splits import Split, decode_images, find_image_faults


def examine_splits(
    splits: list[Split], description: str, progress: bool = True, allow_shared: bool = False
) -> list[Split]:
    """Add the faults of the images of splits, all of them decoded, and what is good to know.

    Args:
        description: of the bar.
        progress: show it.
        allow_shared: an image in two splits does not hurt.
    """
    decoded = decode_images(splits, description, progress)
    find_image_faults(splits, decoded, allow_shared)
    for split in splits:
        _compare_totals(split, splits)
        _add_notes(split, decoded)
    _note_unlisted(splits)
    return splits


def _compare_totals(split: Split, splits: list[Split]) -> None:
    content = split.content
    if split.is_voc:
        published_classes, totals = VOC_CLASSES, VOC_TOTALS
    else:
        published_classes, totals = COCO_CLASSES, COCO_TOTALS
    # COCO's file lists all categories, VOC's XMLs show those that have objects.
    classes, published = set(content.classes), set(published_classes)
    same_classes = classes <= published if split.is_voc else classes == published
    if split.name not in totals or not same_classes:
        return
    images, objects = totals[split.name]
    if 2 * len(content.images) < images:  # another set, under the names of its files
        split.notes.append(
            f'{len(content.images):,} images, not the {images:,} of the set so named'
        )
        return
    for count, total, counted in (
        (len(content.images), images, 'images'),
        (content.objects, objects, 'objects'),
    ):
        if total is not None and count != total:
            message = f'lists {count:,} {counted}, the published one {total:,}'
            if split.is_voc and (absent := _absent_of_voc2007(splits)):
                message += f'; in no list: {first_few(absent, 9)}'
            content.add_fault('count', str(content.file), message, hurts=False)


def _absent_of_voc2007(splits: list[Split]) -> list[str]:
    """The images of VOC 2007 that neither trainval nor test lists; [] where one has no list."""
    lists = {split.name: split.content.names for split in splits}
    trainval, test = lists.get('VOC2007/trainval'), lists.get('VOC2007/test')
    if trainval is None or test is None:
        return []
    all_names = {f'{number:06}' for number in range(1, 9964)}
    return sorted(all_names - {*trainval, *test})


def _add_notes(split: Split, decoded: dict[str, Decoded]) -> None:
    """What mmdet handles: see `pixel_notes`; images and classes left bare."""
    images = [decoded[image.path] for image in split.content.images if image.path]
    split.notes += pixel_notes(images)
    without_objects = sum(not image.objects for image in split.content.images)
    if without_objects:
        split.notes.append(f'{without_objects:,} images have no objects')
    absent = [name for name, count in split.content.classes.items() if not count]
    if absent:
        split.notes.append(f'no object of {first_few(absent)}')


def _note_unlisted(splits: list[Split]) -> None:
    """Count the images in the folders of the splits that no file lists."""
    listed = {os.path.abspath(image.path) for split in splits for image in split.content.images}
    for split in splits:
        for fault in split.content.faults:
            if fault.kind == 'image under another name':
                listed.add(os.path.abspath(file_under_another_name(fault.place) or fault.place))
    folders = {split.images.absolute(): split for split in splits}
    for folder, split in folders.items():
        if any(parent in folders for parent in folder.parents):
            continue
        paths = [
            os.path.join(subfolder, name)
            for subfolder, _, names in os.walk(folder)
            for name in sorted(names)
            if name.lower().endswith(ENDINGS)
        ]
        unlisted = [os.path.relpath(path, folder) for path in paths if path not in listed]
        if unlisted:
            split.notes.append(
                f'{len(unlisted):,} of {len(paths):,} images in {split.images} are in no '
                f'annotation file: {first_few(unlisted)}'
            )
