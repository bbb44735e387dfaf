"""Read a data folder as clean COCO dictionaries: find its layout, check it, and split it if needed.

The folder is not changed. The dictionaries are written elsewhere; their file names are relative to
the folder.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ...utils.errors import InputError, first_few
from ..validation.clean import check_correctable
from ..validation.clean_coco import clean_raw
from ..validation.content import as_id
from ..validation.examination import examine_splits
from ..validation.splits import AnnotatedSplit
from .coco import coco_files_of, read_coco_folder
from .files import SPLITS, Files, list_files
from .other_formats import describe_other_formats
from .split import split_images
from .voc import read_voc_folder, voc_files_of
from .yolo import read_yolo_folder, yolo_files_of

Reader = Callable[[Files], list[AnnotatedSplit]]
# Layout -> a function that returns the files of this layout, and its reader.
LAYOUTS: dict[str, tuple[Callable[[Files], list[Path]], Reader]] = dict(
    coco=(coco_files_of, read_coco_folder),
    voc=(voc_files_of, read_voc_folder),
    yolo=(yolo_files_of, read_yolo_folder),
)
TITLES = dict(coco='COCO', voc='VOC', yolo='YOLO')
MOST_IMAGES, MOST_OBJECTS = 0.5, 0.1  # shares of a split that may be left out


@dataclass
class Sets:
    """The data sets of a folder.

    Attributes:
        root: the folder that the file names of the images are relative to.
        layout: 'COCO', 'VOC' or 'YOLO'.
        classes: class names in the order of the labels; their category ids are 1, 2, ...
        splits: COCO dictionaries by 'train', 'val' and, if there is one, 'test'.
        notes: lines that say what was found and changed.
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
    progress: bool = True,
) -> Sets:
    """Read the data sets of a folder and decode every image.

    Args:
        folder: the data folder.
        layout: a key of `LAYOUTS`; None to detect it.
        seed: seed of the split, if one is made.
        progress: show a progress bar.

    Raises:
        InputError: the layout is unknown or ambiguous, files contradict each other, or too much of
            a split is unusable.
    """
    try:
        files = list_files(folder)
        layout = _detect_layout(files, folder, layout)
        splits, notes = _without_repeated_splits(LAYOUTS[layout][1](files))
    except OSError as error:
        raise InputError(
            f'{error.filename} cannot be read ({error.strerror}); give yourself access to it, or '
            'move it out of the folder'
        ) from None
    notes += files.notes
    examine_splits(splits, f'decoding the images of {files.root}', progress, noted=files.noted)
    parts: dict[str, list[dict]] = {}
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
        notes += _without_shared_images(split, cleaned, files.root)
        parts.setdefault(split.name, []).append(cleaned)
    sets = {name: _joined(of_split) for name, of_split in parts.items()}
    if 'all' in sets:
        sets, note = _split(sets['all'], seed, files.root)
        notes.append(note)
    elif 'train' not in sets:
        raise InputError(f'{files.root} has {" and ".join(sets)} but no train; add training images')
    elif 'val' not in sets:
        sets['val'] = sets.pop('test')
        notes.append('there is no validation set: the test set is used for validation')
    classes = _classes(list(sets.values()))
    if similar := _similar(classes):
        notes.append(f'classes with almost the same name: {first_few(similar)}; are they one?')
    present = {item['category_id'] for item in sets['train']['annotations']}
    names = {item['id']: item['name'] for item in sets['train']['categories']}
    if absent := sorted(set(classes) - {names[number] for number in present}):
        notes.append(f'train has no objects of {first_few(absent)}')
    sets = {name: _numbered(sets[name], classes) for name in SPLITS if name in sets}
    return Sets(files.root, TITLES[layout], classes, sets, notes)


def _detect_layout(files: Files, folder: Path, layout: str | None) -> str:
    detected = {name: marks for name, (find, _) in LAYOUTS.items() if (marks := find(files))}
    if layout is not None:
        if layout not in detected:
            raise InputError(f'{folder} has no {TITLES[layout]} files; leave --layout out')
        return layout
    if not detected:
        kinds = ('images', 'xmls', 'jsons', 'texts')
        counts = [f'{len(getattr(files, kind)):,} {kind}' for kind in kinds]
        contents = '; '.join([', '.join(counts), *describe_other_formats(files)])
        raise InputError(
            f"{folder} has no annotations in COCO's, VOC's or YOLO's layout (it has {contents}); "
            'export them from your annotation tool in one of these, or convert them'
        )
    if len(detected) > 1:
        examples = ', '.join(f'{TITLES[name]} ({marks[0]})' for name, marks in detected.items())
        raise InputError(
            f'{folder} has files of several layouts: {examples}; choose one with --layout '
            f'{" or --layout ".join(detected)}, or give a folder with only one layout'
        )
    return next(iter(detected))


def _without_repeated_splits(
    splits: list[AnnotatedSplit],
) -> tuple[list[AnnotatedSplit], list[str]]:
    """The splits without those that have the same images as an earlier one, and notes on them.

    For example, coco128 has the same images for training and validation.
    """
    distinct: dict[frozenset[str], AnnotatedSplit] = {}
    notes = []
    for split in splits:
        paths = frozenset(image.path for image in split.content.images)
        if paths in distinct:
            notes.append(f'{split.name} has the same images as {distinct[paths].name}')
        distinct.setdefault(paths, split)
    if len(distinct) == 1:
        splits[0].name = 'all'
    return list(distinct.values()), notes


def _fault_notes(split: AnnotatedSplit, cleaned: dict) -> list[str]:
    """Notes on the faults of a split, and on what is left out of it.

    Raises:
        InputError: too much would be left out.
    """
    content = split.content
    prefix, of_split = f'{split.name}: ', f' of {split.name}'
    if split.name == 'all':  # a name that no user knows
        prefix = of_split = ''
    of_other_tools = ('annotation id 0', 'byte order mark')  # the copy has neither
    faults = Counter(fault.kind for fault in content.faults if fault.kind not in of_other_tools)
    examples = {fault.kind: fault for fault in reversed(content.faults)}
    notes = [
        f'{prefix}{kind}: {count:,}, for example {examples[kind]}' for kind, count in faults.items()
    ]
    notes += [f'{prefix}{note}' for note in split.notes]
    all_images, raw_objects = len(content.raw['images']), content.raw['annotations']
    images = all_images - len(cleaned['images'])
    # Objects of the images that are kept, with those of VOC and YOLO files that cannot be read.
    kept_ids = {image['id'] for image in cleaned['images']}
    objects_of_kept = [
        item
        for item in raw_objects
        if isinstance(item, dict) and as_id(item.get('image_id')) in kept_ids
    ]
    all_objects = len(objects_of_kept)
    all_objects += content.objects - len(raw_objects)
    objects = all_objects - len(cleaned['annotations'])
    too_many = images > MOST_IMAGES * all_images or objects > MOST_OBJECTS * all_objects
    if not cleaned['images'] or too_many:
        fault = max(content.faults, key=lambda fault: faults[fault.kind])
        totals = ((images, all_images, 'images'), (objects, all_objects, 'objects'))
        parts = [f'{count:,} of {total:,} {kind}' for count, total, kind in totals if count > 0]
        unusable = f'{" and ".join(parts)}{of_split} cannot be used'
        if not cleaned['images']:
            unusable = f'no box of the {all_images:,} images{of_split} can be used'
            if len(content.unusable_images()) == all_images:
                unusable = f'the {all_images:,} images{of_split} cannot be used'
        raise InputError(
            f'{content.file}: {unusable}, for example: {fault}; correct such files, or move them '
            'out of the folder'
        )
    if 'corners instead of sizes' in faults:
        notes.append(f'{prefix}all boxes are read as x1, y1, x2, y2')
    if images > 0 or objects > 0:
        counts = ((images, 'image', 'images'), (objects, 'box', 'boxes'))
        left_out = ' and '.join(
            f'{count:,} {singular if count == 1 else plural}'
            for count, singular, plural in counts
            if count > 0
        )
        notes.append(f'{prefix}left out: {left_out}')
    return notes


def _without_shared_images(split: AnnotatedSplit, cleaned: dict, root: Path) -> list[str]:
    """Remove the images that are also in a later split from `cleaned`; returns notes on that."""
    shared = {
        Path(os.path.relpath(fault.place, root)).as_posix()
        for fault in split.content.faults
        if fault.kind == 'same image in two splits' and fault.harmful
    }
    ids = {image['id'] for image in cleaned['images'] if image['file_name'] in shared}
    if not ids:
        return []
    if len(ids) == len(cleaned['images']):
        raise InputError(
            f'all images of {split.name} ({split.content.file}) are also in another split '
            f'({first_few(sorted(shared))}); remove them from one of the two'
        )
    cleaned['images'] = [image for image in cleaned['images'] if image['id'] not in ids]
    cleaned['annotations'] = [
        item for item in cleaned['annotations'] if item['image_id'] not in ids
    ]
    return [f'{split.name}: {len(ids):,} images that are also in another split are left out']


def _joined(parts: list[dict]) -> dict:
    """One dictionary of the files of a split. Classes are matched by name."""
    if len(parts) == 1:
        return parts[0]
    joined: dict[str, list[dict]] = dict(images=[], annotations=[], categories=[])
    for number, raw in enumerate(parts):
        names = {item['id']: item['name'] for item in raw['categories']}
        joined['images'] += [dict(item, id=(number, item['id'])) for item in raw['images']]
        joined['annotations'] += [
            dict(
                item,
                image_id=(number, item['image_id']),
                category_id=names[item['category_id']],
            )
            for item in raw['annotations']
        ]
        joined['categories'] += [dict(item, id=item['name']) for item in raw['categories']]
    return joined


def _split(raw: dict, seed: int, root: Path) -> tuple[dict[str, dict], str]:
    if len(raw['images']) < 2:
        raise InputError(
            f'{root} has only one usable image; add images, as training and validation need two'
        )
    annotated = {item['image_id'] for item in raw['annotations'] if not item['iscrowd']}
    if len(annotated) < 2:
        raise InputError(
            f'{root} has objects in {len(annotated)} of its {len(raw["images"]):,} images; '
            'annotate more, as training and validation both need objects'
        )
    halves = split_images(raw, seed)
    note = (
        f'no split was found: {len(halves.val):,} of {len(raw["images"]):,} images are used for '
        f'validation, split {halves.description}, seed {seed}'
    )
    return {'train': _part(raw, halves.train), 'val': _part(raw, halves.val)}, note


def _part(raw: dict, ids: set[int]) -> dict:
    return dict(
        raw,
        images=[image for image in raw['images'] if image['id'] in ids],
        annotations=[item for item in raw['annotations'] if item['image_id'] in ids],
    )


def _classes(sets: list[dict]) -> tuple[str, ...]:
    """The class names of all sets, without Roboflow's first category.

    Roboflow names that category after the data set; it has no objects, and is the supercategory of
    the others.
    """
    categories = [category for raw in sets for category in raw['categories']]
    names_by_id = [{item['id']: item['name'] for item in raw['categories']} for raw in sets]
    used = {
        names[item['category_id']]
        for raw, names in zip(sets, names_by_id, strict=True)
        for item in raw['annotations']
    }
    supercategories = {
        category.get('supercategory')
        for category in categories
        if category.get('supercategory') != category['name']
    }
    names = dict.fromkeys(category['name'] for category in categories)
    return tuple(name for name in names if name in used or name not in supercategories)


def _similar(classes: tuple[str, ...]) -> list[str]:
    """Class names that differ only in letter case and in characters such as blanks and dashes."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault(re.sub(r'[\s_-]', '', name).casefold(), []).append(name)
    return [' and '.join(map(repr, group)) for group in groups.values() if len(group) > 1]


def _numbered(raw: dict, classes: tuple[str, ...]) -> dict:
    """Keep only what box detectors and COCO's metrics read, and number everything from 1."""
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
