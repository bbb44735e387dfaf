"""A data folder as clean COCO dictionaries: recognised, checked, split where it is not.

No file of the folder is changed: what is trained on is written elsewhere, and its names of images
are relative to the folder.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ...utils.errors import InputError, first_few
from ..validation.clean import check_correctable
from ..validation.clean_coco import clean_raw
from ..validation.folder import Split, examine_splits
from .coco import coco_files_of, read_coco_folder
from .files import SPLITS, Files, list_files
from .split import split_images
from .voc import read_voc_folder, voc_files_of
from .yolo import read_yolo_folder, yolo_files_of

# Layout -> the files by which it is recognised, and its reader.
LAYOUTS: dict[str, tuple[Callable[[Files], list[Path]], Callable[[Files], list[Split]]]] = dict(
    coco=(coco_files_of, read_coco_folder),
    voc=(voc_files_of, read_voc_folder),
    yolo=(yolo_files_of, read_yolo_folder),
)
TITLES = dict(coco='COCO', voc='VOC', yolo='YOLO')
MOST_IMAGES, MOST_OBJECTS = 0.5, 0.1  # parts of a split that may be left out


@dataclass
class Sets:
    """The data sets of a folder.

    Attributes:
        root: the folder that the names of the images are relative to.
        layout: 'COCO', 'VOC' or 'YOLO'.
        classes: names in the order of the labels, whose category ids are 1, 2, ...
        splits: COCO dictionaries by 'train', 'val' and, where there is one, 'test'.
        notes: what was found and done, a line each.
    """

    root: Path
    layout: str
    classes: tuple[str, ...]
    splits: dict[str, dict]
    notes: list[str] = field(default_factory=list)


def read_sets(
    folder: Path,
    layout: str | None = None,
    seed: int = 0,
    leave_out: Path | None = None,
    progress: bool = True,
) -> Sets:
    """The data sets of a folder, every image decoded.

    Args:
        folder: of the data.
        layout: a key of `LAYOUTS`; None to recognise it.
        seed: of the split, where one is made.
        leave_out: a folder below it that is not read.
        progress: show a bar.

    Raises:
        InputError: no layout or several are recognised, files contradict each other, or too much
            of a split cannot be used.
    """
    files = list_files(folder, leave_out)
    layout = _recognise(files, folder, layout)
    splits, notes = _different(LAYOUTS[layout][1](files))
    examine_splits(splits, f'decoding the images of {files.root}', progress)
    sets: dict[str, dict] = {}
    for split in splits:
        check_correctable(split)
        try:
            cleaned = clean_raw(split)
        except InputError:  # nothing would be left
            cleaned = dict(images=[], annotations=[])
        notes += _fault_notes(split, cleaned)
        for image in cleaned['images']:
            path = os.path.join(split.images, image['file_name'])
            image['file_name'] = Path(os.path.relpath(path, files.root)).as_posix()
        sets[split.name] = cleaned
    for split in splits:
        notes += _without_shared_images(split, sets[split.name], files.root)
    if 'all' in sets:
        sets, note = _split(sets['all'], seed, files.root)
        notes.append(note)
    elif 'train' not in sets:
        raise InputError(f'{files.root} has {" and ".join(sets)} and no train; add its images')
    elif 'val' not in sets:
        sets['val'] = sets.pop('test')
        notes.append('there is a test set and no validation set: it is used for both')
    classes = _classes(list(sets.values()))
    present = {item['category_id'] for item in sets['train']['annotations']}
    names = {item['id']: item['name'] for item in sets['train']['categories']}
    if absent := sorted(set(classes) - {names[number] for number in present}):
        notes.append(f'train has no object of {first_few(absent)}')
    sets = {name: _numbered(sets[name], classes) for name in SPLITS if name in sets}
    return Sets(files.root, TITLES[layout], classes, sets, notes)


def _recognise(files: Files, folder: Path, layout: str | None) -> str:
    recognised = {name: marks for name, (find, _) in LAYOUTS.items() if (marks := find(files))}
    if layout is not None:
        if layout not in recognised:
            raise InputError(f'{folder} has no {TITLES[layout]} files; leave --layout out')
        return layout
    if not recognised:
        kinds = ('images', 'xmls', 'jsons', 'texts')
        counts = [f'{len(getattr(files, kind)):,} {kind}' for kind in kinds]
        raise InputError(
            f"{folder} has no annotations in COCO's, VOC's or YOLO's layout (it has "
            f'{", ".join(counts)}); export them from your tool in one of these'
        )
    if len(recognised) > 1:
        examples = ', '.join(f'{TITLES[name]} ({marks[0]})' for name, marks in recognised.items())
        raise InputError(
            f'{folder} has files of several layouts: {examples}; choose by --layout '
            f'{" or --layout ".join(recognised)}, or name a folder of one'
        )
    return next(iter(recognised))


def _different(splits: list[Split]) -> tuple[list[Split], list[str]]:
    """The splits without those that have the images of an earlier one (coco128 is trained on what
    it is scored on), and notes of them.
    """
    different: dict[frozenset[str], Split] = {}
    notes = []
    for split in splits:
        paths = frozenset(image.path for image in split.content.images)
        if paths in different:
            notes.append(f'{split.name} has the images of {different[paths].name}')
        different.setdefault(paths, split)
    if len(different) == 1:
        splits[0].name = 'all'
    return list(different.values()), notes


def _fault_notes(split: Split, cleaned: dict) -> list[str]:
    """What the check found in a split, and what is left out of it.

    Raises:
        InputError: too much is left out.
    """
    content = split.content
    faults = Counter(fault.kind for fault in content.faults if fault.kind != 'annotation id 0')
    first = {fault.kind: fault for fault in reversed(content.faults)}
    notes = [
        f'{split.name}: {kind}: {count:,}, first {first[kind]}' for kind, count in faults.items()
    ]
    notes += [f'{split.name}: {note}' for note in split.notes]
    images, total = len(content.raw['images']) - len(cleaned['images']), len(content.raw['images'])
    kept_ids = {image['id'] for image in cleaned['images']}
    of_kept = sum(item.get('image_id') in kept_ids for item in content.raw['annotations'])
    unreadable = content.objects - len(content.raw['annotations'])  # of VOC's and YOLO's files
    objects, all_objects = of_kept + unreadable - len(cleaned['annotations']), of_kept + unreadable
    most_images, most_objects = MOST_IMAGES * total, MOST_OBJECTS * all_objects
    if not cleaned['images'] or images > most_images or objects > most_objects:
        fault = max(content.faults, key=lambda fault: faults[fault.kind])
        raise InputError(
            f'{split.content.file}: {images:,} of {total:,} images and {objects:,} of '
            f'{all_objects:,} objects of {split.name} cannot be used: {fault}; correct such files, '
            'or move them out of the folder'
        )
    if images > 0 or objects > 0:
        counts = ((images, 'image', 'images'), (objects, 'box', 'boxes'))
        left_out = ' and '.join(
            f'{count:,} {one if count == 1 else many}' for count, one, many in counts if count > 0
        )
        notes.append(f'{split.name}: left out: {left_out}')
    return notes


def _without_shared_images(split: Split, cleaned: dict, root: Path) -> list[str]:
    """Take the images of `split` that a later split has too out of it; notes of it."""
    shared = {
        Path(os.path.relpath(fault.place, root)).as_posix()
        for fault in split.content.faults
        if fault.kind == 'same image in two splits' and fault.hurts
    }
    ids = {image['id'] for image in cleaned['images'] if image['file_name'] in shared}
    if not ids:
        return []
    if len(ids) == len(cleaned['images']):
        raise InputError(
            f'all images of {split.name} ({split.content.file}) are in another split too '
            f'({first_few(sorted(shared))}); take them out of one'
        )
    cleaned['images'] = [image for image in cleaned['images'] if image['id'] not in ids]
    cleaned['annotations'] = [
        item for item in cleaned['annotations'] if item['image_id'] not in ids
    ]
    return [f'{split.name}: {len(ids):,} images that are in another split too are left out']


def _split(raw: dict, seed: int, root: Path) -> tuple[dict[str, dict], str]:
    if len(raw['images']) < 2:
        raise InputError(f'{root} has one image that can be used; a training and a score take two')
    halves = split_images(raw, seed)
    note = (
        f'no split was found: {len(halves.val):,} of {len(raw["images"]):,} images are for the '
        f'validation, {halves.description}, seed {seed}'
    )
    return {'train': _part(raw, halves.train), 'val': _part(raw, halves.val)}, note


def _part(raw: dict, ids: set[int]) -> dict:
    return dict(
        raw,
        images=[image for image in raw['images'] if image['id'] in ids],
        annotations=[item for item in raw['annotations'] if item['image_id'] in ids],
    )


def _classes(sets: list[dict]) -> tuple[str, ...]:
    """The class names of all sets, without Roboflow's first category, which is the set's name: it
    has no objects and is the supercategory of others.
    """
    categories = [category for raw in sets for category in raw['categories']]
    names_of = [{item['id']: item['name'] for item in raw['categories']} for raw in sets]
    used = {
        names[item['category_id']]
        for raw, names in zip(sets, names_of, strict=True)
        for item in raw['annotations']
    }
    above = {
        category.get('supercategory')
        for category in categories
        if category.get('supercategory') != category['name']
    }
    names = dict.fromkeys(category['name'] for category in categories)
    return tuple(name for name in names if name in used or name not in above)


def _numbered(raw: dict, classes: tuple[str, ...]) -> dict:
    """A dictionary of what the box detectors and COCO's metrics read, with ids from 1."""
    numbers = {name: number for number, name in enumerate(classes, 1)}
    category_ids = {item['id']: numbers.get(item['name']) for item in raw['categories']}
    image_ids = {image['id']: number for number, image in enumerate(raw['images'], 1)}
    return dict(
        images=[
            dict(id=number, **{key: image[key] for key in ('file_name', 'width', 'height')})
            for number, image in enumerate(raw['images'], 1)
        ],
        annotations=[
            dict(
                id=number,
                image_id=image_ids[item['image_id']],
                category_id=category_ids[item['category_id']],
                **{key: item[key] for key in ('bbox', 'area', 'iscrowd')},
            )
            for number, item in enumerate(raw['annotations'], 1)
        ],
        categories=[dict(id=number, name=name) for name, number in numbers.items()],
    )
