"""Clean copies of annotation files: what stands beside a split without what hurts."""

from __future__ import annotations

import json
import os
import shlex
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NamedTuple

from ...utils.errors import InputError
from ...utils.files import atomic_write
from .coco import KINDS_WITH_KEPT_BOX, list_coco
from .content import REMEDIES, Content, as_id, is_box
from .folder import CLEAN, Split
from .images import file_under_another_name

# Faults of a whole image, which a clean file leaves out.
LEFT_OUT = (
    'image missing',
    'image empty',
    'image unreadable',
    'size differs',
    'image entry',
    'list line',
    'annotation missing',
    'no XML',
)


class Clean(NamedTuple):
    """What stands beside a split without what hurts.

    Attributes:
        files: contents by path, empty where nothing hurts.
        options: keys of a config's data set and their values.
        images: how many are left out.
        objects: how many boxes are left out, with those of such images.
    """

    files: dict[Path, bytes]
    options: list[str]
    images: int = 0
    objects: int = 0


def clean(split: Split) -> Clean:
    """The files that stand beside those of a split without what hurts, and the options for them.

    COCO: a JSON without the images that cannot be used and the boxes that are none; what can be
    told is filled in (`area` from the box, `iscrowd` 0, an id of its own). VOC: a list without such
    images; where objects are left out or a size is put right, the folder `Annotations_clean` with
    the XML of every listed image. The same image in two splits is left to the user.

    Raises:
        InputError: nothing would be left, or a category has to be corrected by hand.
    """
    for fault in split.content.faults:
        if fault.kind in ('boxes in 0..1', 'no objects'):
            raise InputError(f'{fault}; {REMEDIES[fault.kind]}')
        if fault.kind == 'category entry':
            raise InputError(
                f'{fault}; correct the file by hand: only you know which class is meant'
            )
    return (_clean_voc if split.is_voc else _clean_coco)(split)


def _clean_coco(split: Split) -> Clean:
    content, raw = split.content, split.content.raw
    left_out = _unusable_images(content)
    for fault in content.faults:
        if fault.kind == 'image id twice':
            image_id = raw['images'][fault.image]['id']
            duplicates = [
                index for index, image in enumerate(raw['images']) if image.get('id') == image_id
            ]
            files = {str(raw['images'][index].get('file_name')) for index in duplicates}
            # Of two images nobody knows whose the boxes are.
            left_out.update(duplicates[1:] if len(files) == 1 else duplicates)
    annotations = _complete(_merge_images(raw, left_out))
    actual_names = _actual_names(split)
    images = [
        {**image, 'file_name': actual_names[index]} if index in actual_names else image
        for index, image in enumerate(raw['images'])
        if index not in left_out
    ]
    if any(fault.kind == 'corners for sizes' for fault in content.faults):
        annotations = [_from_corners(annotation) for annotation in annotations]
    cleaned = dict(raw, images=images, annotations=annotations)
    faulty = {
        fault.object
        for fault in list_coco(content.file, cleaned, '').faults
        if fault.object is not None and fault.kind not in KINDS_WITH_KEPT_BOX
    }
    kept_annotations = [
        annotation for index, annotation in enumerate(annotations) if index not in faulty
    ]
    if not images or not kept_annotations:
        raise InputError(f'nothing of {content.file} could be kept; restore its images and boxes')
    if images == raw['images'] and kept_annotations == raw['annotations']:
        return Clean({}, [])
    path = content.file.with_name(f'{content.file.stem}{CLEAN}.json')
    text = json.dumps(dict(cleaned, annotations=kept_annotations))
    return Clean(
        {path: f'{text}\n'.encode()},
        [f'ann_file={path.relative_to(split.root)}'],
        len(raw['images']) - len(images),
        len(annotations) - len(kept_annotations),
    )


def _actual_names(split: Split) -> dict[int, str]:
    """Index -> name below the images' folder, of images that are there under another name."""
    actual_names = {}
    for fault in split.content.faults:
        if fault.kind == 'image under another name' and fault.image is not None:
            actual_path = file_under_another_name(fault.place)
            if actual_path is not None:
                name = os.path.relpath(actual_path, split.images)
                actual_names[fault.image] = Path(name).as_posix()
    return actual_names


def _merge_images(raw: dict, left_out: set[int]) -> list[dict]:
    """The annotations, those of a file's later entries given to its first one.

    Args:
        left_out: indices of the images that are left out, to which the later entries are added.
    """
    first_ids: dict[str, object] = {}
    merged_ids: dict[object, object] = {}
    for index, image in enumerate(raw['images']):
        name, image_id = image.get('file_name'), as_id(image.get('id'))
        if index in left_out or not isinstance(name, str) or image_id is None:
            continue
        first_id = first_ids.setdefault(os.path.normpath(name), image_id)
        if first_id != image_id:
            merged_ids[image_id] = first_id
            left_out.add(index)
    return [
        {**annotation, 'image_id': merged_ids[annotation['image_id']]}
        if as_id(annotation.get('image_id')) in merged_ids
        else annotation
        for annotation in raw['annotations']
    ]


def _from_corners(annotation: dict) -> dict:
    box = annotation.get('bbox')
    if box is None or not is_box(box):
        return annotation
    left, top, right, bottom = box
    corrected = {**annotation, 'bbox': [left, top, right - left, bottom - top]}
    if annotation.get('area') == right * bottom:
        corrected['area'] = (right - left) * (bottom - top)
    return corrected


def _unusable_images(content: Content) -> set[int]:
    """The images that cannot be used."""
    return {
        fault.image
        for fault in content.faults
        if fault.image is not None and fault.kind in LEFT_OUT
    }


def _complete(annotations: list[dict]) -> list[dict]:
    """Copies with what can be told of the rest: area, iscrowd, an id of their own from 1."""
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


def _clean_voc(split: Split) -> Clean:
    content = split.content
    if any(fault.kind == 'image under another name' for fault in content.faults):
        files = f'{shlex.quote(str(split.images.absolute()))}/*'
        raise InputError(
            f"mmdet reads VOC's images as NAME.jpg; link those of other endings: for f in {files}; "
            'do [ -e "${f%.*}.jpg" ] || ln -s "${f##*/}" "${f%.*}.jpg"; done'
        )
    left_out = _unusable_images(content)
    objects: dict[int, set[int]] = {}
    sizes = {fault.image for fault in content.faults if fault.kind == 'size'}
    for fault in content.faults:
        if fault.image is None or fault.object is None or fault.kind in KINDS_WITH_KEPT_BOX:
            continue
        if fault.hurts or fault.kind in ('box without area', 'box outside the image'):
            objects.setdefault(fault.image, set()).add(fault.object)
    kept_indices = [index for index in range(len(content.names)) if index not in left_out]
    if not kept_indices:
        raise InputError(f'nothing of {content.file} could be kept; restore its images and XMLs')
    cleaned_files: dict[Path, bytes] = {}
    path = content.file
    if left_out:
        path = content.file.with_name(f'{content.file.stem}{CLEAN}.txt')
        lines = [f'{content.names[index]}\n' for index in kept_indices]
        cleaned_files[path] = ''.join(lines).encode()
    # Named even where it is the old one: the XMLs are those of this list.
    options = [f'ann_file={Path(split.sub_data_root, path.relative_to(split.root))}']
    if any(index in objects or index in sizes for index in kept_indices):
        for index in kept_indices:
            name = content.names[index]
            xml_file = split.root / 'Annotations' / f'{name}.xml'
            size = content.images[index].size if index in sizes else None
            clean_file = split.root / f'Annotations{CLEAN}' / f'{name}.xml'
            faulty = objects.get(index, set())
            if faulty or size:
                cleaned_files[clean_file] = _clean_xml(xml_file, faulty, size)
            else:
                cleaned_files[clean_file] = xml_file.read_bytes()
        options.append(f'ann_subdir=Annotations{CLEAN}')
    objects_out = sum(len(objects.get(index, ())) for index in kept_indices)
    objects_out += sum(content.images[index].objects for index in left_out)
    return Clean(cleaned_files, options if cleaned_files else [], len(left_out), objects_out)


def _clean_xml(file: Path, objects: set[int], size: tuple[float, float] | None) -> bytes:
    root = ET.parse(file).getroot()
    for index, item in enumerate(root.findall('object')):
        if index in objects:
            root.remove(item)
    parent = root.find('size')
    if size and parent is not None:
        for tag, value in zip(('width', 'height'), size, strict=True):
            node = parent.find(tag)
            if node is None:
                node = ET.SubElement(parent, tag)
            node.text = str(value)
    return ET.tostring(root) + b'\n'


def write_clean(files: dict[Path, bytes]) -> None:
    """Write the files of `clean`; what a kill leaves out, the same call writes.

    Raises:
        InputError: one of them exists with another content, which stays.
    """
    for path, data in files.items():
        if path.exists() and (not path.is_file() or path.read_bytes() != data):
            raise InputError(f'{path} exists and holds something else; move it away')
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part:
            part.write_bytes(data)


def config_options(split: Split, options: list[str]) -> str:
    """The `--cfg-options` line for clean files, by what the split is called.

    Of a folder with folders of VOC, whose lists a config joins as it likes: the data set and its
    keys, for a `data_root` that is the folder given.
    """
    if split.sub_data_root:
        return f'in the data set of {split.name}: {", ".join(options)}'
    if split.role is None:
        lines = [_options_of(split, options, loaders) for loaders in (['train'], ['val', 'test'])]
        return '\n  or, where it is for validation and test:\n  '.join(lines)
    return _options_of(split, options, ['train'] if split.role == 'train' else ['val', 'test'])


def _options_of(split: Split, options: list[str], loaders: list[str]) -> str:
    settings = [f'{loader}_dataloader.dataset.{option}' for loader in loaders for option in options]
    if not split.is_voc and loaders != ['train']:
        file = split.root / options[0].removeprefix('ann_file=')
        settings += [f'{loader}_evaluator.ann_file={file}' for loader in loaders]
    return f'--cfg-options {" ".join(settings)}'
