"""Checks of COCO and VOC folders, made before a model is built.

Quick, always: folders, annotation files, every image's existence and size, classes against the
config. Full, on request: every image is decoded as well.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from mmdet.datasets import CocoDataset, XMLDataset
from mmdet.registry import DATASETS
from mmengine.config import ConfigDict
from PIL import Image
from rich.progress import track

from ..errors import InputError, some

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

    def __str__(self) -> str:
        line = (
            f'{self.where}: {self.images:,} images, {self.objects:,} objects, '
            f'{len(self.classes)} classes'
        )
        return '; '.join([line, *self.notes])


def leaf_datasets(dataset: dict) -> list[dict]:
    """The data sets inside wrappers such as RepeatDataset and ConcatDataset."""
    if 'datasets' in dataset:
        return [leaf for inner in dataset['datasets'] for leaf in leaf_datasets(inner)]
    return leaf_datasets(dataset['dataset']) if 'dataset' in dataset else [dataset]


def _kind(dataset: dict) -> type | None:
    """The class of a data set, looked up in the scope of the config."""
    if not isinstance(dataset['type'], str):
        return dataset['type']
    with DATASETS.switch_scope_and_registry(None) as registry:
        return registry.get(dataset['type'])


def config_classes(dataset: dict) -> tuple[str, ...]:
    """The class names that a data set's config stands for, in label order; () where unknown."""
    kind = _kind(dataset)
    classes = (dataset.get('metainfo') or {}).get('classes')
    if classes is None:
        classes = getattr(kind, 'METAINFO', {}).get('classes', ())
    if isinstance(classes, str):
        path = Path(classes)
        if not path.is_file():
            raise InputError(
                f'metainfo.classes={classes!r} is no file; give a tuple of names, '
                "('cat',) with a comma where there is one"
            )
        classes = path.read_text(encoding='utf-8').split('\n')
    return tuple(name for name in classes if name)


def check_dataset(
    dataset: ConfigDict, full: bool = False, annotated: bool = True
) -> Summary | None:
    """Check one data set of a config (no wrapper).

    Args:
        dataset: the `dataset` of a dataloader, of type CocoDataset or XMLDataset or a subclass.
        full: decode every image too, in parallel, with a progress bar.
        annotated: ground truth is needed; False for COCO's test-dev.

    Returns:
        What was found; None where the data set is of another kind or not on a local disk.

    Raises:
        InputError: a folder or file is missing, the annotations are not what they should be, the
            classes do not match, or images are missing or unreadable.
    """
    kind = _kind(dataset)
    if kind is None:
        raise InputError(
            f'data set type {dataset["type"]!r} is not registered; check its spelling, or import '
            'its module with custom_imports'
        )
    root = dataset.get('data_root') or ''
    if '://' in root or '://' in str(dataset.get('ann_file', '')):
        return None
    if issubclass(kind, CocoDataset):
        summary, images = _read_coco(dataset, Path(root), annotated)
    elif issubclass(kind, XMLDataset):
        summary, images = _read_voc(dataset, Path(root))
    else:
        return None
    _check_images(summary.where, images, full)
    return summary


def check_num_classes(model: dict, classes: tuple[str, ...]) -> None:
    """Raise InputError where a head of `model` predicts another number of classes."""
    roi = model.get('roi_head') or {}
    for place, owner in (('model', model), ('model.roi_head', roi)):
        for part in ('bbox_head', 'mask_head'):
            heads = owner.get(part) or []
            for index, head in enumerate(heads if isinstance(heads, (list, tuple)) else [heads]):
                count = head.get('num_classes')
                if count is not None and classes and count != len(classes):
                    where = f'{place}.{part}'
                    where += f'.{index}' if isinstance(heads, (list, tuple)) else ''
                    raise InputError(
                        f'{where}.num_classes={count}, but the data set has {len(classes)} classes '
                        f'({some(list(classes), 4)}); set {where}.num_classes={len(classes)} or '
                        "the data set's metainfo.classes"
                    )


def missing_root(root: Path, layout: str) -> InputError:
    """The error for a data folder that is not there, with the ways out."""
    where = '' if root.is_absolute() else f' below {Path.cwd()}'
    checkout = Path(__file__).resolve().parents[2] / root
    if checkout.is_dir():
        ways = f'it is there as {checkout}: give --data-root {checkout}'
    elif 'digits' in root.parts:
        made = Path(*root.parts[: root.parts.index('digits') + 1])
        ways = f'make it: python tools/make_digits.py {made}'
    else:
        get = (
            'cocodataset.org/#download'
            if layout == COCO_LAYOUT
            else 'host.robots.ox.ac.uk/pascal/VOC'
        )
        ways = (
            f'get the data ({get}), name its folder with --data-root, or run on the embedded set: '
            'python tools/make_digits.py, then configs/faster_rcnn_r50_cbam_digits.py'
        )
    return InputError(f'no data folder {root}{where} ({layout}); {ways}')


def _existing_file(root: Path, name: str, layout: str) -> Path:
    path = root / name
    if not path.is_file():
        folder = path if root == Path() else root
        if not root.is_dir() or (root == Path() and not path.parent.is_dir()):
            raise missing_root(folder, layout)
        near = sorted(str(found.relative_to(root)) for found in path.parent.glob('*'))[:5]
        there = f'{path.parent} has {some(near, 5)}' if near else f'{path.parent} has no files'
        raise InputError(f'no annotation file {path} ({layout}); {there}')
    return path


def _read_coco(dataset: dict, root: Path, annotated: bool) -> tuple[Summary, list[Path]]:
    path = _existing_file(root, dataset['ann_file'], COCO_LAYOUT)
    remedy = 'give a COCO detection file with images, annotations and categories'
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f'{path} is no JSON ({error}); {remedy}') from None
    if isinstance(content, dict) and not annotated:
        content.setdefault('annotations', [])
    for key in ('images', 'annotations', 'categories'):
        items = content.get(key) if isinstance(content, dict) else None
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise InputError(f'{path} is no COCO JSON, it lacks the list {key!r}; {remedy}')
    images, annotations = content['images'], content['annotations']
    for key, needed in (
        ('images', ('file_name', 'id', 'width', 'height')),
        ('categories', ('id', 'name')),
    ):
        for index, item in enumerate(content[key]):
            if absent := [name for name in needed if name not in item]:
                raise InputError(f'{path}: {key}[{index}] lacks {absent[0]!r}; mend the file')
    if not images:
        raise InputError(f'{path} lists no images; {remedy}')
    _check_annotations(path, content, needs_crowd=bool(dataset.get('test_mode')))
    names = [category['name'] for category in content['categories']]
    summary = Summary(str(path), len(images), len(annotations), config_classes(dataset))
    _compare_classes(summary, names, strict=True)
    if annotated and not annotations:
        raise InputError(f'{path} has no annotations; there is nothing to learn or to score')
    prefix = (dataset.get('data_prefix') or {}).get('img') or ''
    return summary, [root / prefix / image['file_name'] for image in images]


def _check_annotations(path: Path, content: dict, needs_crowd: bool) -> None:
    """What CocoDataset reads of each annotation; evaluation reads `iscrowd` as well."""
    known = {
        'image_id': {image['id'] for image in content['images']},
        'category_id': {category['id'] for category in content['categories']},
    }
    needed = ('id', 'image_id', 'category_id', 'bbox', 'area')
    needed += ('iscrowd',) if needs_crowd else ()
    for index, item in enumerate(content['annotations']):
        fault = next((f'lacks {name!r}' for name in needed if item.get(name) is None), None)
        if fault is None and not _is_box(item['bbox']):
            fault = f'has bbox={item["bbox"]!r}, not four numbers x, y, width, height'
        for name, ids in known.items():
            if fault is None and item[name] not in ids:
                fault = f'has {name}={item[name]!r}, which the file does not list'
        if fault:
            raise InputError(f'{path}: annotations[{index}] {fault}; mend the file')


def _is_box(box: object) -> bool:
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(value, (int, float)) and math.isfinite(value) for value in box)
    )


def _read_voc(dataset: dict, root: Path) -> tuple[Summary, list[Path]]:
    path = _existing_file(root, dataset['ann_file'], VOC_LAYOUT)
    folder = root / ((dataset.get('data_prefix') or {}).get('sub_data_root') or '')
    annotations = folder / dataset.get('ann_subdir', 'Annotations')
    images = folder / dataset.get('img_subdir', 'JPEGImages')
    ids = path.read_text(encoding='utf-8').split('\n')
    ids = ids[:-1] if ids[-1] == '' else ids
    if not any(ids):
        raise InputError(f'{path} lists no images; give one image name a line, without its ending')
    for number, name in enumerate(ids, 1):
        if name.split() != [name]:
            raise InputError(
                f'{path}, line {number}: {name!r} is no image name; mmdet reads the whole line, so '
                'leave no blank lines and no second column'
            )
    absent = [name for name in ids if not (annotations / f'{name}.xml').is_file()]
    if absent:
        raise InputError(
            f'{len(absent)} of {len(ids)} annotations of {path} are missing: '
            f'{annotations}/{{{some(absent)}}}.xml; restore them or take them off the list'
        )
    names: Counter[str] = Counter()
    for name in ids:
        names.update(_voc_names(annotations / f'{name}.xml'))
    summary = Summary(str(path), len(ids), sum(names.values()), config_classes(dataset))
    _compare_classes(summary, list(names), strict=False)
    return summary, [images / f'{name}.jpg' for name in ids]


def _voc_names(file: Path) -> list[str]:
    """The class of each object of a VOC annotation, whose boxes are checked."""
    try:
        items = ET.parse(file).getroot().findall('object')
    except ET.ParseError as error:
        raise InputError(f'{file} is no XML ({error}); restore it') from None
    names = []
    for index, item in enumerate(items, 1):
        sides = [item.findtext(f'bndbox/{side}') for side in ('xmin', 'ymin', 'xmax', 'ymax')]
        try:
            [float(side) for side in sides]
        except (TypeError, ValueError):
            raise InputError(
                f'{file}: object {index} has no bndbox of four numbers ({sides}); mend it'
            ) from None
        if not item.findtext('name'):
            raise InputError(f'{file}: object {index} has no name; mend it')
        names.append(item.findtext('name'))
    return names


def _compare_classes(summary: Summary, names: list[str], strict: bool) -> None:
    """Classes of the config against the annotations' own.

    Annotations may have more classes than the config (training on some of them) and, where they
    list no categories (VOC), fewer. Absent and foreign ones together mean another data set.
    """
    absent = [name for name in summary.classes if name not in names]
    foreign = [name for name in dict.fromkeys(names) if name not in summary.classes]
    if absent and (strict or foreign):
        near = difflib.get_close_matches(absent[0], names, 1)
        hint = f' ({near[0]!r} is near)' if near else ''
        raise InputError(
            f'{summary.where} has no category {absent[0]!r}{hint}; '
            f'{len(absent)} of the {len(summary.classes)} classes of the config are absent; it has '
            f'{some(list(dict.fromkeys(names)), 5)}; '
            "set the data set's metainfo=dict(classes=(...)) and the head's num_classes to fit"
        )
    if foreign:
        summary.notes.append(f'ignored, since the config leaves them out: {some(foreign)}')
    if absent:
        summary.notes.append(f'no object of {some(absent)}')


def _check_images(where: str, images: list[Path], full: bool) -> None:
    bad = {path: fault for path in images if (fault := _quick_fault(path))}
    if full:
        rest = [path for path in images if path not in bad]
        bad.update(_decode_all(rest, f'decoding the images of {where}'))
    if bad:
        first = [f'{path} ({fault})' for path, fault in bad.items()]
        raise InputError(
            f'{len(bad)} of {len(images)} images of {where} cannot be used: {some(first)}; '
            'restore them, or take them out of the annotation file'
        )


def _quick_fault(path: Path) -> str | None:
    try:
        return None if os.stat(path).st_size else 'empty'
    except OSError:
        return 'missing'


def _decode_all(paths: Iterable[Path], description: str) -> dict[Path, str]:
    def fault(path: Path) -> tuple[Path, str | None]:
        try:
            with Image.open(path) as image:
                image.load()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return path, f'unreadable: {error}'.split('\n')[0]
        return path, None

    paths = list(paths)
    with ThreadPoolExecutor() as pool:
        results = track(pool.map(fault, paths), description, total=len(paths), transient=True)
        return {path: found for path, found in results if found}
