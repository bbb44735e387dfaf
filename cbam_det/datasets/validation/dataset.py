"""What a data set of a config holds, and whether a run can use it.

`coco.py`, `voc.py` and `images.py` find the faults; which of them stop a run under its config is
decided here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ...utils.data_config import DataSet
from ...utils.errors import InputError, first_few, printable
from .classes import compare_classes
from .coco import read_coco
from .content import Content, Fault, remedy_of
from .layouts import COCO_LAYOUT, VOC_LAYOUT, existing_file, layout_of
from .pipeline import check_extra_annotations
from .voc import check_folder, read_voc

SHARED = 'same image in two splits'
IMAGE_FAULTS = ('image missing', 'image empty', 'image unreadable')
# What depends on the classes, or is found by looking at the images.
AFTER_CLASSES = (
    *IMAGE_FAULTS,
    *('no objects', 'image under another name', 'size differs', 'same image twice'),
)


@dataclass
class Summary:
    """What a data set holds, for a line of log."""

    where: str
    images: int
    objects: int
    classes: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    shapes: int = 1  # different widths and heights of its images

    def __str__(self) -> str:
        line = (
            f'{self.where}: {self.images:,} images, {self.objects:,} objects, '
            f'{len(self.classes)} classes'
        )
        return printable('; '.join([line, *self.notes]))


def check_content(dataset: DataSet, content: Content, fix_command: Callable[[], str]) -> Summary:
    """Check what is known of a data set of a config.

    Args:
        dataset: of type CocoDataset or XMLDataset or a subclass.
        content: what its annotations list, with the faults of its images (`splits`).
        fix_command: gives the command that writes a clean file, for the messages.

    Returns:
        What it holds, with what mmdet passes over counted in its notes.

    Raises:
        InputError: the annotations are not what they should be, a box would make the loss infinite,
            the classes do not match, nothing is left to learn, images are missing or unreadable.
    """
    check_extra_annotations(dataset, content)
    hurting = [fault for fault in content.faults if fault.hurts and fault.kind != SHARED]
    of_entries = [fault for fault in hurting if fault.kind not in AFTER_CLASSES]
    _raise_first_kind(content, of_entries, fix_command)
    classes = dataset.classes
    summary = Summary(str(content.file), len(content.images), content.objects, classes)
    summary.shapes = len({image.size for image in content.images if image.size})
    summary.notes += compare_classes(classes, content)
    no_objects = [fault for fault in hurting if fault.kind == 'no objects']
    _raise_first_kind(content, no_objects, fix_command)
    summary.notes += _left_out(content, dataset)
    _raise_first_kind(content, hurting, fix_command)
    return summary


def check_not_shared(content: Content, fix_command: Callable[[], str]) -> None:
    """Raise InputError where images of `content` are in another split too; see `check_content`."""
    shared = [fault for fault in content.faults if fault.hurts and fault.kind == SHARED]
    _raise_first_kind(content, shared, fix_command)


def read_annotations(dataset: DataSet, annotated: bool = True) -> Content | None:
    """What a data set of a config lists, with the faults that hurt under that config.

    Args:
        annotated: ground truth is needed; False for COCO's test-dev.

    Returns:
        None where the data set is of another kind than COCO's and VOC's, or not on a local disk.

    Raises:
        InputError: a folder or file is missing, the annotations cannot be read at all, or the
            config lacks classes.
    """
    if dataset.kind is None:
        raise InputError(
            f'data set type {dataset.class_or_name!r} is not registered; check its spelling, or '
            'import its module with custom_imports'
        )
    layout = layout_of(dataset)
    if not dataset.is_local or layout is None:
        return None
    if not dataset.classes:
        raise InputError(
            f'{dataset.name} has no classes; give the data set metainfo=dict(classes=(...))'
        )
    content = (_read_coco_dataset if layout == 'coco' else _read_voc_dataset)(
        dataset, set(dataset.classes), annotated
    )
    content.faults = [
        fault._replace(hurts=fault.hurts and not _passed_over(fault, dataset))
        for fault in content.faults
    ]
    return content


def _read_coco_dataset(dataset: DataSet, classes: set[str], annotated: bool) -> Content:
    path = existing_file(dataset, COCO_LAYOUT)
    content = read_coco(path, dataset.image_folder, classes, annotated, dataset.test_mode)
    if not os.path.isfile(content.images[0].path):  # their names may be absolute
        check_folder(dataset.image_folder, f'the images of {path}', 'data_prefix.img')
    return content


def _read_voc_dataset(dataset: DataSet, classes: set[str], annotated: bool) -> Content:
    return read_voc(existing_file(dataset, VOC_LAYOUT), *dataset.voc_folders, classes)


def _passed_over(fault: Fault, dataset: DataSet) -> bool:
    """Whether a fault that hurts elsewhere does not under this config.

    VOC's boxes without area: in a test no loss is taken of them; in training mmdet ignores those
    below `filter_cfg.bbox_min_size`, and the pipeline's FilterAnnotations drops them, as it does
    those outside of the image, once they are clipped.
    """
    if fault.kind not in ('box without area', 'box outside the image'):
        return False
    min_size = dataset.filter_cfg.get('bbox_min_size') or 0
    return (
        dataset.test_mode
        or any(step.name == 'FilterAnnotations' for step in dataset.pipeline)
        or (fault.kind == 'box without area' and min_size >= 1)
    )


def _raise_first_kind(
    content: Content, faults: list[Fault], fix_command: Callable[[], str]
) -> None:
    """Raise InputError for the first kind of `faults`, if any; see `check_content`."""
    if not faults:
        return
    fix = fix_command()
    kind = faults[0].kind
    kinds = IMAGE_FAULTS if kind in IMAGE_FAULTS else (kind,)
    same_kind = [fault for fault in faults if fault.kind in kinds]
    file, total = content.file, len(content.images)
    if kind in IMAGE_FAULTS:
        examples = first_few([str(fault) for fault in same_kind])
        message = f'{len(same_kind)} of {total} images of {file} cannot be used: {examples}'
        remedy = f'restore them, or take them out of the annotation file ({fix})'
    elif kind == 'annotation missing':
        folder = Path(same_kind[0].place).parent
        names = [Path(fault.place).stem for fault in same_kind]
        message = f'{len(same_kind)} of {total} annotations of {file} are missing: '
        message += f'{folder}/{{{first_few(names)}}}.xml'
        remedy = f'restore them or take them off the list ({fix})'
    else:
        more = f' (and {len(same_kind) - 1} more such faults)' if len(same_kind) > 1 else ''
        message, remedy = f'{same_kind[0]}{more}', remedy_of(same_kind[0], fix)
    raise InputError(f'{message}; {remedy}')


def _left_out(content: Content, dataset: DataSet) -> list[str]:
    """Which images and boxes mmdet does not train on, in words."""
    by_kind: dict[str, list[Fault]] = {}
    for fault in content.faults:
        if not fault.hurts:
            by_kind.setdefault(fault.kind, []).append(fault)
    notes = [f'{kind}: {len(faults)} ({faults[0].place})' for kind, faults in by_kind.items()]
    filter_cfg = dataset.filter_cfg
    if dataset.test_mode or not filter_cfg:
        return notes
    min_size = filter_cfg.get('min_size') or 0
    empty = [filter_cfg.get('filter_empty_gt') and not image.objects for image in content.images]
    small = [image.size is not None and min(image.size) < min_size for image in content.images]
    left_out = sum(map(any, zip(empty, small, strict=True)))
    if left_out == len(content.images):
        raise InputError(
            f'mmdet leaves out all {left_out} images of {content.file}: {sum(small)} are below '
            f'min_size={min_size} pixels, the others have no object of the classes; change the '
            "data set's filter_cfg"
        )
    if left_out:
        too_small = f'{sum(small)} below min_size={min_size} pixels'
        notes.append(
            f'left out of training: {left_out} images ({sum(map(bool, empty))} without objects, '
            f'{too_small})'
        )
    return notes
