"""A clean copy of a COCO file, with what can be told of the rest filled in."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ...utils.errors import InputError
from .coco import KEPT, list_coco, read_images
from .content import Clean, Content, as_id, is_box
from .folder import CLEAN, Split
from .images import file_under_another_name, header_size


def clean_coco(split: Split) -> Clean:
    content, raw = split.content, split.content.raw
    names = _names_there(split)
    images = [
        _completed_image(image, names.get(index), content.images[index].path)
        for index, image in enumerate(raw['images'])
    ]
    again = Content(content.file, raw=dict(raw, images=images))
    read_images(again)
    out = content.left_out()
    for fault in again.faults:
        if fault.image is not None and fault.kind == 'image entry':
            out.add(fault.image)
        elif fault.image is not None and fault.kind == 'image id twice':
            number = images[fault.image]['id']
            same = [n for n, one in enumerate(images) if one.get('id') == number]
            files = {str(images[n].get('file_name')) for n in same}
            out.update(same[1:] if len(files) == 1 else same)  # of two images: whose boxes?
    annotations = _completed(_joined(raw['annotations'], images, out, content.repeats()))
    annotations, categories = _joined_classes(annotations, raw['categories'])
    images = [image for index, image in enumerate(images) if index not in out]
    if any(fault.kind == 'corners for sizes' for fault in content.faults):
        annotations = [_from_corners(one) for one in annotations]
    corrected = dict(raw, images=images, annotations=annotations, categories=categories)
    faulty = {
        fault.object
        for fault in list_coco(content.file, corrected, '').faults
        if fault.object is not None and fault.kind not in KEPT
    }
    kept = [one for index, one in enumerate(annotations) if index not in faulty]
    if not images or (split.annotated and not kept):
        raise InputError(f'nothing of {content.file} could be kept; restore its images and boxes')
    corrected['annotations'] = kept
    if corrected == raw:
        return Clean({}, {})
    path = content.file.with_name(f'{content.file.stem}{CLEAN}.json')
    return Clean(
        {path: f'{json.dumps(corrected)}\n'.encode()},
        dict(ann_file=str(path.absolute())),
        len(raw['images']) - len(images),
        len(annotations) - len(kept),
    )


def _names_there(split: Split) -> dict[int, str]:
    """Index -> name below the images' folder, of images that are there under another name."""
    names = {}
    for fault in split.content.faults:
        if fault.kind == 'image under another name' and fault.image is not None:
            there = file_under_another_name(fault.place)
            if there is not None:
                names[fault.image] = Path(os.path.relpath(there, split.images)).as_posix()
    return names


def _completed_image(image: dict, name: str | None, path: str) -> dict:
    """A copy with the name that is there, and with a size where it has none."""
    image = dict(image, file_name=name) if name else image
    sides = [image.get('width'), image.get('height')]
    if path and not all(isinstance(side, (int, float)) and side > 0 for side in sides):
        size = header_size(path)
        image = dict(image, width=size[0], height=size[1]) if size else image
    return image


def _joined(
    annotations: list[dict], images: list[dict], out: set[int], repeats: dict[int, int]
) -> list[dict]:
    """The annotations, those of an image's later entries given to its first one.

    Args:
        out: indices of the images that are left out, to which the later entries are added.
        repeats: entries of one picture, see `Content.repeats`.
    """
    owners: dict[str, object] = {}
    moved: dict[object, object] = {}
    for index, image in enumerate(images):
        number = as_id(image.get('id'))
        if index in out or number is None:
            continue
        first = repeats.get(index, index)
        name = os.path.normpath(images[index if first in out else first]['file_name'])
        owner = owners.setdefault(name, number)
        if owner != number:
            moved[number] = owner
            out.add(index)
            owners[os.path.normpath(image['file_name'])] = owner
    return [
        {**one, 'image_id': moved[one['image_id']]} if as_id(one.get('image_id')) in moved else one
        for one in annotations
    ]


def _joined_classes(
    annotations: list[dict], categories: list[dict]
) -> tuple[list[dict], list[dict]]:
    """Annotations and categories, those of one name under the first one's id."""
    first: dict[str, object] = {}
    moved = {}
    for one in categories:
        if first.setdefault(one['name'], one['id']) != one['id']:
            moved[one['id']] = first[one['name']]
    if not moved:
        return annotations, categories
    return [
        {**one, 'category_id': moved[one['category_id']]}
        if as_id(one.get('category_id')) in moved
        else one
        for one in annotations
    ], [one for one in categories if one['id'] not in moved]


def _from_corners(annotation: dict) -> dict:
    box = annotation.get('bbox')
    if box is None or not is_box(box):
        return annotation
    left, top, right, bottom = box
    made = {**annotation, 'bbox': [left, top, right - left, bottom - top]}
    if annotation.get('area') == right * bottom:
        made['area'] = (right - left) * (bottom - top)
    return made


def _completed(annotations: list[dict]) -> list[dict]:
    """Copies with what can be told of the rest: area, iscrowd, an id of their own from 1."""
    numbers = [one.get('id') for one in annotations]
    free = max((n for n in numbers if isinstance(n, int)), default=0) + 1
    seen: set = {0, None}
    completed = []
    for one in annotations:
        one = dict(one)
        box = one.get('bbox')
        if one.get('area') is None and isinstance(box, list) and len(box) == 4:
            sides = box[2:]
            if all(isinstance(side, (int, float)) for side in sides):
                one['area'] = sides[0] * sides[1]
        if one.get('iscrowd') is None:
            one['iscrowd'] = 0
        number = one.get('id')
        if as_id(number) is None or number in seen:
            one['id'], free = max(free, 1), max(free, 1) + 1
        seen.add(one['id'])
        completed.append(one)
    return completed
