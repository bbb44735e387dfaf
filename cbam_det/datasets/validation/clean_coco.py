"""A clean copy of a COCO file, in which missing values are filled in."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ...utils.errors import InputError
from .coco import KINDS_WITH_KEPT_BOX, list_coco, read_images
from .content import Clean, Content, as_id, is_box
from .images import file_under_another_name, header_size
from .splits import CLEAN, AnnotatedSplit


def clean_coco(split: AnnotatedSplit) -> Clean:
    raw, cleaned = split.content.raw, clean_raw(split)
    has_mark = any(fault.kind == 'byte order mark' for fault in split.content.faults)
    if cleaned == raw and not has_mark:
        return Clean({}, {})
    path = split.content.file.with_name(f'{split.content.file.stem}{CLEAN}.json')
    return Clean(
        {path: f'{json.dumps(cleaned)}\n'.encode()},
        dict(ann_file=str(path.absolute())),
        len(raw['images']) - len(cleaned['images']),
        len(raw['annotations']) - len(cleaned['annotations']),
    )


def clean_raw(split: AnnotatedSplit) -> dict:
    """The JSON of a split without its harmful faults, see `clean.clean`.

    File names are relative to `split.images`.

    Raises:
        InputError: nothing would be left.
    """
    content, raw = split.content, split.content.raw
    actual_names = _actual_names(split)
    images = [
        _complete_image(image, actual_names.get(index), content.images[index].path)
        for index, image in enumerate(raw['images'])
    ]
    completed = Content(content.file, raw=dict(raw, images=images))
    read_images(completed)
    left_out = content.unusable_images()
    for fault in completed.faults:
        if fault.image is not None and fault.kind == 'invalid image entry':
            left_out.add(fault.image)
        elif fault.image is not None and fault.kind == 'image id twice':
            image_id = images[fault.image]['id']
            duplicates = [n for n, image in enumerate(images) if image.get('id') == image_id]
            files = {str(images[index].get('file_name')) for index in duplicates}
            # If two images share an id, it is unknown which of them the boxes belong to.
            left_out.update(duplicates[1:] if len(files) == 1 else duplicates)
    repeated = content.repeated_images()
    annotations = _complete(_merge_images(raw['annotations'], images, left_out, repeated))
    annotations, categories = _merge_classes(annotations, raw['categories'])
    images = [image for index, image in enumerate(images) if index not in left_out]
    if any(fault.kind == 'corners instead of sizes' for fault in content.faults):
        annotations = [_from_corners(annotation) for annotation in annotations]
    cleaned = dict(raw, images=images, annotations=annotations, categories=categories)
    faulty = {
        fault.object
        for fault in list_coco(content.file, cleaned, '').faults
        if fault.object is not None and fault.kind not in KINDS_WITH_KEPT_BOX
    }
    kept_annotations = [
        annotation for index, annotation in enumerate(annotations) if index not in faulty
    ]
    if not images or (split.annotated and not kept_annotations):
        raise InputError(f'nothing in {content.file} could be kept; restore its images and boxes')
    cleaned['annotations'] = kept_annotations
    return cleaned


def _actual_names(split: AnnotatedSplit) -> dict[int, str]:
    """Index -> file name, of the images whose file exists under another name."""
    actual_names = {}
    for fault in split.content.faults:
        if fault.kind == 'image under another name' and fault.image is not None:
            actual_path = file_under_another_name(fault.place)
            if actual_path is not None:
                name = os.path.relpath(actual_path, split.images)
                actual_names[fault.image] = Path(name).as_posix()
    return actual_names


def _complete_image(image: dict, name: str | None, path: str) -> dict:
    """A copy of an image entry with the actual file name, and with a size if it has none."""
    image = dict(image, file_name=name) if name else image
    sides = [image.get('width'), image.get('height')]
    if path and not all(isinstance(side, (int, float)) and side > 0 for side in sides):
        size = header_size(path)
        image = dict(image, width=size[0], height=size[1]) if size else image
    return image


def _merge_images(
    annotations: list[dict], images: list[dict], left_out: set[int], repeated: dict[int, int]
) -> list[dict]:
    """Assign the annotations of repeated image entries to the first entry of the image.

    Args:
        left_out: indices of the images that are left out; the repeated entries are added to it.
        repeated: repeated images, see `Content.repeated_images`.

    Returns:
        The annotations with the new image ids.
    """
    first_ids: dict[str, object] = {}
    merged_ids: dict[object, object] = {}
    for index, image in enumerate(images):
        image_id = as_id(image.get('id'))
        if index in left_out or image_id is None:
            continue
        first = repeated.get(index, index)
        name = os.path.normpath(images[index if first in left_out else first]['file_name'])
        first_id = first_ids.setdefault(name, image_id)
        if first_id != image_id:
            merged_ids[image_id] = first_id
            left_out.add(index)
            first_ids[os.path.normpath(image['file_name'])] = first_id
    return [
        {**annotation, 'image_id': merged_ids[annotation['image_id']]}
        if as_id(annotation.get('image_id')) in merged_ids
        else annotation
        for annotation in annotations
    ]


def _merge_classes(
    annotations: list[dict], categories: list[dict]
) -> tuple[list[dict], list[dict]]:
    """Merge categories of the same name under the id of the first one."""
    first_ids: dict[str, object] = {}
    merged_ids = {}
    for category in categories:
        first_id = first_ids.setdefault(category['name'], category['id'])
        if first_id != category['id']:
            merged_ids[category['id']] = first_id
    if not merged_ids:
        return annotations, categories
    annotations = [
        {**annotation, 'category_id': merged_ids[annotation['category_id']]}
        if as_id(annotation.get('category_id')) in merged_ids
        else annotation
        for annotation in annotations
    ]
    return annotations, [category for category in categories if category['id'] not in merged_ids]


def _from_corners(annotation: dict) -> dict:
    box = annotation.get('bbox')
    if box is None or not is_box(box):
        return annotation
    left, top, right, bottom = box
    corrected = {**annotation, 'bbox': [left, top, right - left, bottom - top]}
    if annotation.get('area') == right * bottom:
        corrected['area'] = (right - left) * (bottom - top)
    return corrected


def _complete(annotations: list[dict]) -> list[dict]:
    """Copies with missing values filled in: area, iscrowd, and unique ids from 1."""
    numbers = [annotation.get('id') for annotation in annotations]
    next_id = max((number for number in numbers if isinstance(number, int)), default=0) + 1
    taken: set = {0, None}
    completed = []
    for annotation in annotations:
        annotation = dict(annotation)
        box = annotation.get('bbox')
        if annotation.get('area') is None and isinstance(box, list) and len(box) == 4:
            sides = box[2:]
            if all(isinstance(side, (int, float)) for side in sides):
                annotation['area'] = sides[0] * sides[1]
        if annotation.get('iscrowd') is None:
            annotation['iscrowd'] = 0
        number = annotation.get('id')
        if as_id(number) is None or number in taken:
            annotation['id'], next_id = max(next_id, 1), max(next_id, 1) + 1
        taken.add(annotation['id'])
        completed.append(annotation)
    return completed
