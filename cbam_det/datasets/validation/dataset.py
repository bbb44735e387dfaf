"""Checks of the data sets of a config, made before a model is built.

Quick, always: folders, every annotation, every image's existence, classes against the config. Full,
on request: every image is decoded as well. `coco.py` and `voc.py` find the faults; which of
them stop a run is said here.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from ...utils.environment import tool_command
from ...utils.errors import InputError, first_few, printable
from ...utils.run_config import DataSet
from .coco import read_coco
from .content import Content, Fault, remedy_of, unusable_reason
from .images import (
    Decoded,
    add_repeated_images,
    check_exists,
    decode_all,
    image_faults,
    pixel_notes,
)
from .pipeline import check_extra_annotations, check_filter
from .voc import check_folder, read_list, read_voc

LAYOUTS: dict[str, Literal['coco', 'voc']] = {'CocoDataset': 'coco', 'XMLDataset': 'voc'}
COCO_LAYOUT = (
    'expected annotations/instances_train2017.json, annotations/instances_val2017.json, '
    'train2017/ and val2017/ in it'
)
VOC_LAYOUT = 'expected ImageSets/Main/, Annotations/ and JPEGImages/ in it'


@dataclass
class Summary:
    """What a data set holds, for a line of log."""

    where: str
    images: int
    objects: int
    classes: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    shapes: int = 1  # different widths and heights of its images
    paths: frozenset[str] = frozenset()  # of its images

    def __str__(self) -> str:
        line = (
            f'{self.where}: {self.images:,} images, {self.objects:,} objects, '
            f'{len(self.classes)} classes'
        )
        return printable('; '.join([line, *self.notes]))


def check_dataset(
    dataset: DataSet,
    full: bool = False,
    annotated: bool = True,
    fix_command: Callable[[], str] | None = None,
) -> Summary | None:
    """Check one data set of a config.

    Args:
        dataset: of type CocoDataset or XMLDataset or a subclass, or of another.
        full: decode every image too, in parallel, with a progress bar.
        annotated: ground truth is needed; False for COCO's test-dev.
        fix_command: gives the command that writes a clean file, for the messages; that of the data
            set's folder where there is none.

    Returns:
        What was found, with what mmdet passes over counted in its notes; None where the data set
        is of another kind or not on a local disk.

    Raises:
        InputError: a folder or file is missing, the annotations are not what they should be, a box
            would make the loss infinite, the classes do not match, nothing is left to learn, or
            images are missing or unreadable.
    """
    fix_command = fix_command or partial(_fix_folder_command, dataset.root)
    content = read_annotations(dataset, annotated)
    if content is None:
        return None
    classes = dataset.classes
    check_extra_annotations(dataset, content)
    _raise_first_kind(content, [fault for fault in content.faults if fault.hurts], fix_command)
    summary = Summary(str(content.file), len(content.images), content.objects, classes)
    summary.shapes = len({image.size for image in content.images if image.size})
    summary.paths = frozenset(os.path.abspath(image.path) for image in content.images if image.path)
    _compare_classes(summary, list(content.classes), strict=not content.is_voc)
    if annotated and (problem := unusable_reason(content)):
        raise InputError(f'{content.file} {problem}; there is nothing to learn or to score')
    _note_left_out(summary, content, dataset)
    decode_image: Callable[[str], Decoded] = check_exists
    if full:
        paths = [image.path for image in content.images if image.path]
        decoded_images = decode_all(paths, f'decoding the images of {content.file}')
        decode_image = decoded_images.__getitem__
        summary.notes += pixel_notes(decoded_images.values())
        add_repeated_images(content, decoded_images)
        _raise_first_kind(content, [fault for fault in content.faults if fault.hurts], fix_command)
    _raise_first_kind(content, list(image_faults(content, decode_image)), fix_command)
    return summary


def read_annotations(dataset: DataSet, annotated: bool = True) -> Content | None:
    """What a data set of a config lists, with the faults that hurt under that config.

    Args:
        annotated: see `check_dataset`.

    Returns:
        None where the data set is of another kind than COCO's and VOC's, or not on a local disk.

    Raises:
        InputError: a folder or file is missing, the annotations cannot be read at all, or the
            config lacks classes or has a filter that mmdet does not know.
    """
    kind = dataset.kind
    if kind is None:
        raise InputError(
            f'data set type {dataset.class_or_name!r} is not registered; check its spelling, or '
            'import its module with custom_imports'
        )
    layout = layout_of(kind)
    if not dataset.is_local or layout is None:
        return None
    if not dataset.classes:
        raise InputError(
            f'{dataset.name} has no classes; give the data set metainfo=dict(classes=(...))'
        )
    check_filter(dataset)
    content = (_read_coco_dataset if layout == 'coco' else _read_voc_dataset)(
        dataset, set(dataset.classes), annotated
    )
    content.faults = [
        fault._replace(hurts=fault.hurts and not _passed_over(fault, dataset))
        for fault in content.faults
    ]
    return content


def fingerprint(dataset: DataSet) -> str:
    """Twelve digits of a data set's annotations: of its file, and of the XML of each image that a
    VOC list names; '' where the labels are folders' names. Images are not read.

    Raises:
        InputError: the file is missing.
    """
    if not dataset.ann_file:
        return ''
    if dataset.name == 'CustomDataset':  # mmpretrain's: a list of images and labels
        file = dataset.root / dataset.ann_file
        if not file.is_file():
            command = [*tool_command('prepare-tiny-imagenet'), str(dataset.root)]
            raise InputError(f'no list {file}; for Tiny-ImageNet: {shlex.join(command)}')
        return hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    voc = dataset.ann_file.endswith('.txt')
    file = _existing_file(dataset, VOC_LAYOUT if voc else COCO_LAYOUT)
    digest = hashlib.sha256(file.read_bytes())
    if voc:
        annotations, _ = dataset.voc_folders
        for name in read_list(file):
            xml = annotations / f'{name.strip()}.xml'
            digest.update(xml.read_bytes() if xml.is_file() else b'')
    return digest.hexdigest()[:12]


def layout_of(kind: type) -> Literal['coco', 'voc'] | None:
    """The layout that a class of data sets reads, as mmdet's CocoDataset or XMLDataset does; None
    where it is neither of these, or reads its files in a way of its own.
    """
    for base in kind.__mro__:
        layout = LAYOUTS.get(base.__name__)
        if layout and base.__module__.startswith('mmdet.'):
            readers = ('load_data_list', 'parse_data_info')
            same = all(getattr(kind, name) is getattr(base, name) for name in readers)
            return layout if same else None
    return None


def _read_coco_dataset(dataset: DataSet, classes: set[str], annotated: bool) -> Content:
    path = _existing_file(dataset, COCO_LAYOUT)
    content = read_coco(path, dataset.image_folder, classes, annotated, dataset.test_mode)
    if not os.path.isfile(content.images[0].path):  # their names may be absolute
        check_folder(dataset.image_folder, f'the images of {path}', 'data_prefix.img')
    return content


def _read_voc_dataset(dataset: DataSet, classes: set[str], annotated: bool) -> Content:
    return read_voc(_existing_file(dataset, VOC_LAYOUT), *dataset.voc_folders, classes)


def check_num_classes(model: dict, classes: tuple[str, ...]) -> None:
    """Raise InputError where a head of `model` predicts another number of classes.

    A detector with a language model has as many as its text may have words.
    """
    if 'language_model' in model:
        return
    for place, owner in (('model', model), ('model.roi_head', model.get('roi_head'))):
        for part in ('bbox_head', 'mask_head'):
            heads = owner.get(part) if isinstance(owner, dict) else None
            for index, head in enumerate(heads if isinstance(heads, (list, tuple)) else [heads]):
                count = head.get('num_classes') if isinstance(head, dict) else None
                if count is not None and classes and count != len(classes):
                    key_path = f'{place}.{part}'
                    key_path += f'.{index}' if isinstance(heads, (list, tuple)) else ''
                    raise InputError(
                        f'{key_path}.num_classes={count}, but the data set has {len(classes)} '
                        f'classes ({first_few(list(classes), 4)}); set '
                        f'{key_path}.num_classes={len(classes)} '
                        "or the data set's metainfo.classes"
                    )


def missing_root(root: Path, layout: str, is_custom: bool) -> InputError:
    """The error for a data folder that is not there, with the ways out.

    Args:
        is_custom: the data set has classes of its own, so that it is neither COCO nor VOC.
    """
    where = '' if root.is_absolute() else f' below {Path.cwd()}'
    checkout = Path(__file__).resolve().parents[3] / root
    if checkout.is_dir():
        remedy = f'it is there as {checkout}: give --data-root {shlex.quote(str(checkout))}'
    elif digits_root := _digits_root(root):
        remedy = f'make it: {shlex.join([*tool_command("make-digits"), str(digits_root)])}'
    elif is_custom:
        remedy = "correct the data set's data_root, or name its folder with --data-root"
    else:
        source = (
            'cocodataset.org/#download'
            if layout == COCO_LAYOUT
            else 'host.robots.ox.ac.uk/pascal/VOC'
        )
        remedy = (
            f'get the data ({source}), name its folder with --data-root, or run on the embedded '
            f'set: {shlex.join(tool_command("make-digits"))}, then '
            'configs/faster_rcnn_r50_cbam_digits.py'
        )
    return InputError(f'no data folder {root}{where} ({layout}); {remedy}')


def _digits_root(root: Path) -> Path | None:
    """The folder for which `make-digits` would make a data root; None where it would not."""
    for folder in (root, *root.parents):
        inner = root.relative_to(folder).parts
        if folder.name == 'digits' and inner == ('VOCdevkit', 'VOC2007')[: len(inner)]:
            return folder
    return None


def _existing_file(dataset: DataSet, layout: str) -> Path:
    root, path = dataset.root, dataset.root / dataset.ann_file
    if not path.is_file():
        folder = path if root == Path() else root
        if not root.is_dir() or (root == Path() and not path.parent.is_dir()):
            raise missing_root(folder, layout, is_custom=bool(dataset.metainfo_classes))
        names = sorted(str(file.relative_to(root)) for file in path.parent.glob('*'))[:5]
        contents = first_few(names, 5) or 'no files'
        hint = f'{path.parent} has {contents}'
        if 'VOC2012' in path.parts and (root / 'VOC2007/ImageSets/Main/trainval.txt').is_file():
            hint = (
                f'{root} has VOC2007 alone: add VOC2012, or take the config for that year, whose '
                'name ends in _voc07 (faster_rcnn_r50_cbam_voc07)'
            )
        raise InputError(f'no annotation file {path} ({layout}); {hint}')
    return path


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
        or 'FilterAnnotations' in dataset.transforms
        or (fault.kind == 'box without area' and min_size >= 1)
    )


def _fix_folder_command(folder: Path) -> str:
    return shlex.join([*tool_command('check-data'), str(folder), '--fix'])


def _raise_first_kind(
    content: Content, faults: list[Fault], fix_command: Callable[[], str]
) -> None:
    """Raise InputError for the first kind of `faults`, if any; see `check_dataset`."""
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
            remedy += f', or take them out of the annotation file ({fix})'
    elif kind == 'annotation missing':
        folder = Path(same_kind[0].place).parent
        names = [Path(fault.place).stem for fault in same_kind]
        message = f'{len(same_kind)} of {total} annotations of {file} are missing: '
        message += f'{folder}/{{{first_few(names)}}}.xml'
        remedy = 'restore them'
        if len(same_kind) < total:
            remedy += f', or take them off the list ({fix})'
    else:
        more = f' (and {len(same_kind) - 1} more such faults)' if len(same_kind) > 1 else ''
        message, remedy = f'{same_kind[0]}{more}', remedy_of(same_kind[0], fix)
    raise InputError(f'{message}; {remedy}')


IMAGE_FAULTS = ('image missing', 'image empty', 'image unreadable')


def _note_left_out(summary: Summary, content: Content, dataset: DataSet) -> None:
    """Say which images and boxes mmdet does not train on."""
    by_kind: dict[str, list[Fault]] = {}
    for fault in content.faults:
        by_kind.setdefault(fault.kind, []).append(fault)
    summary.notes += [
        f'{kind}: {len(faults)} ({faults[0].place})' for kind, faults in by_kind.items()
    ]
    filter_cfg = dataset.filter_cfg
    if dataset.test_mode or not filter_cfg:
        return
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
        summary.notes.append(
            f'left out of training: {left_out} images ({sum(map(bool, empty))} without objects, '
            f'{too_small})'
        )


def _compare_classes(summary: Summary, names: list[str], strict: bool) -> None:
    """Classes of the config against the annotations' own.

    Annotations may have more classes than the config (training on some of them) and, where they
    list no categories (VOC), fewer. Absent and foreign ones together mean another data set. Where
    they list them (COCO), mmdet numbers the labels in that order.
    """
    absent = [name for name in summary.classes if name not in names]
    extra = [name for name in dict.fromkeys(names) if name not in summary.classes]
    if absent and (strict or extra):
        similar = difflib.get_close_matches(absent[0], names, 1)
        hint = f' ({similar[0]!r} is near)' if similar else ''
        raise InputError(
            f'{summary.where} has no category {absent[0]!r}{hint}; '
            f'{len(absent)} of the {len(summary.classes)} classes of the config are absent; it has '
            f'{first_few(list(dict.fromkeys(names)), 5)}; '
            "set the data set's metainfo=dict(classes=(...)) and the head's num_classes to fit"
        )
    order = [name for name in names if name in summary.classes]
    if strict and order != list(summary.classes):
        raise InputError(
            f'{summary.where} lists the classes in another order ({first_few(order, 5)}), by which '
            f'mmdet numbers them: label 0 would be {order[0]!r} and be called '
            f'{summary.classes[0]!r}; '
            "put metainfo.classes in the file's order"
        )
    if extra:
        summary.notes.append(f'ignored, since the config leaves them out: {first_few(extra)}')
    if absent:
        summary.notes.append(f'no object of {first_few(absent)}')
