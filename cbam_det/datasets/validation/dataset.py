"""Whether a run can use the data sets of its config.

`coco.py`, `voc.py` and `images.py` find the faults; this file decides which of them stop a run.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ...utils.data_config import DataSet
from ...utils.errors import InputError, first_few, printable
from ...utils.options import cfg_options
from .classes import compare_classes
from .coco import read_coco
from .config_layout import COCO_LAYOUT, VOC_LAYOUT, existing_file, layout_of
from .content import BY_HAND, Content, Fault, remedy_of
from .folder import coco_images
from .pipeline import check_extra_annotations
from .voc import check_folder, read_voc

SHARED = 'same image in two splits'
IMAGE_FAULTS = ('image missing', 'image empty', 'image unreadable')
# Reported after the classes are compared: they depend on the classes or on the image files.
AFTER_CLASSES = (
    *IMAGE_FAULTS,
    'no objects',
    'image under another name',
    'size differs',
    'same image twice',
)


@dataclass
class Summary:
    """What a data set contains, as a line of the log."""

    where: str
    images: int
    objects: int
    classes: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    shapes: int = 1  # number of different image sizes

    def __str__(self) -> str:
        line = (
            f'{self.where}: {self.images:,} images, {self.objects:,} objects, '
            f'{len(self.classes)} classes'
        )
        return printable('; '.join([line, *self.notes]))


def check_content(dataset: DataSet, content: Content, fix_command: Callable[[], str]) -> Summary:
    """Check a data set of a config.

    Args:
        dataset: a CocoDataset, an XMLDataset or a subclass.
        content: its annotations, with the faults of its images (see `splits`).
        fix_command: returns the command that writes a clean file, for the messages.

    Returns:
        What the data set contains; its notes count what mmdet ignores.

    Raises:
        InputError: the annotations are invalid, a box would make the loss infinite, the classes do
            not match, there is nothing to learn, or images are missing or unreadable.
    """
    check_extra_annotations(dataset, content)
    harmful = [fault for fault in content.faults if fault.harmful and fault.kind != SHARED]
    of_entries = [fault for fault in harmful if fault.kind not in AFTER_CLASSES]
    of_entries.sort(key=lambda fault: fault.kind not in BY_HAND)  # --fix would refuse them later
    _raise_first_kind(content, of_entries, fix_command)
    classes = dataset.classes
    summary = Summary(str(content.file), len(content.images), content.objects, classes)
    summary.shapes = len({image.size for image in content.images if image.size})
    summary.notes += compare_classes(classes, content)
    no_objects = [fault for fault in harmful if fault.kind == 'no objects']
    _raise_first_kind(content, no_objects, fix_command)
    summary.notes += _left_out(content, dataset)
    _raise_first_kind(content, harmful, fix_command)
    return summary


def check_not_shared(content: Content, fix_command: Callable[[], str]) -> None:
    """Raise InputError if images are also in another split; see `check_content`."""
    shared = [fault for fault in content.faults if fault.harmful and fault.kind == SHARED]
    _raise_first_kind(content, shared, fix_command)


def read_annotations(dataset: DataSet, annotated: bool = True) -> Content | None:
    """Read the annotations of a data set, with the faults that are harmful under its config.

    Args:
        annotated: whether ground truth is needed; False for COCO's test-dev.

    Returns:
        None if the data set is neither COCO nor VOC, or is not on a local disk.

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
        fault._replace(harmful=fault.harmful and not _is_filtered(fault, dataset))
        for fault in content.faults
    ]
    return content


def _read_coco_dataset(dataset: DataSet, classes: set[str], annotated: bool) -> Content:
    path = existing_file(dataset, COCO_LAYOUT)
    if dataset.prefixes.get('img') is None:  # mmdet has no default for it
        raise _without_image_folder(dataset, path)
    content = read_coco(path, dataset.image_folder, classes, annotated, dataset.test_mode)
    if not os.path.isfile(content.images[0].path):  # the file names may be absolute
        check_folder(dataset.image_folder, f'the images of {path}', 'data_prefix.img')
    return content


def _without_image_folder(dataset: DataSet, path: Path) -> InputError:
    """The error for a data set without `data_prefix.img`, with the folder that has the images."""
    prefix = 'FOLDER/'
    with contextlib.suppress(InputError):  # they are in none of the usual folders
        folder = coco_images(dataset.root, path, read_coco(path, ''), None)
        prefix = '' if folder == dataset.root else f'{os.path.relpath(folder, dataset.root)}/'
    key = f'{dataset.place}.data_prefix'
    remedy = cfg_options({f'{key}.img': prefix})
    return InputError(f'{key} has no img, the folder of the images of {path}; give {remedy}')


def _read_voc_dataset(dataset: DataSet, classes: set[str], annotated: bool) -> Content:
    return read_voc(existing_file(dataset, VOC_LAYOUT), *dataset.voc_folders, classes)


def _is_filtered(fault: Fault, dataset: DataSet) -> bool:
    """Whether this config makes a harmful fault harmless.

    VOC boxes without area make the loss infinite, which a test does not compute. In training, mmdet
    ignores boxes smaller than `filter_cfg.bbox_min_size`. FilterAnnotations in the pipeline drops
    boxes without area, and also boxes outside the image once these are clipped.
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
    """Raise InputError for all `faults` of the first kind, if any; see `check_content`."""
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
        remedy = 'restore them'
        if len(same_kind) < total:
            remedy += f', or remove them from the annotation file ({fix})'
    elif kind == 'annotation missing':
        folder = Path(same_kind[0].place).parent
        names = [Path(fault.place).stem for fault in same_kind]
        message = f'{len(same_kind)} of {total} annotations of {file} are missing: '
        message += f'{folder}/{{{first_few(names)}}}.xml'
        remedy = 'restore them'
        if len(same_kind) < total:
            remedy += f', or remove them from the list ({fix})'
    else:
        more = f' (and {len(same_kind) - 1} more such faults)' if len(same_kind) > 1 else ''
        message, remedy = f'{same_kind[0]}{more}', remedy_of(same_kind[0], fix)
    raise InputError(f'{message}; {remedy}')


def _left_out(content: Content, dataset: DataSet) -> list[str]:
    """Notes on the images and boxes that mmdet does not train on."""
    by_kind: dict[str, list[Fault]] = {}
    for fault in content.faults:
        if not fault.harmful:
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
            f'mmdet filters out all {left_out} images of {content.file}: {sum(small)} are smaller '
            f'than min_size={min_size} pixels, and the others have no objects of the classes; '
            "change the data set's filter_cfg"
        )
    if left_out:
        too_small = f'{sum(small)} smaller than min_size={min_size} pixels'
        notes.append(
            f'filtered out of training: {left_out} images ({sum(map(bool, empty))} without '
            f'objects, {too_small})'
        )
    return notes
