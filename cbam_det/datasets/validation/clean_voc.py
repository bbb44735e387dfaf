"""A clean copy of a VOC list, and of its XML files if they change."""

from __future__ import annotations

import os
import shlex
import xml.etree.ElementTree as ET
from pathlib import Path

from ...utils.errors import InputError
from .coco import KINDS_WITH_KEPT_BOX
from .content import Clean
from .images import file_under_another_name
from .splits import CLEAN, AnnotatedSplit
from .voc import SIDES, as_corners, object_fault, sides_of

# Boxes that contain no pixel. Clean files never have them, even if the config filters them.
NOT_LEARNT = ('box without area', 'box outside the image')


def clean_voc(split: AnnotatedSplit) -> Clean:
    content, names = split.content, split.content.names
    _check_links(split)
    left_out, firsts = content.unusable_images(), content.repeated_images()
    faulty: dict[int, set[int]] = {}
    for fault in content.faults:
        if fault.image is None or fault.object is None or fault.kind in KINDS_WITH_KEPT_BOX:
            continue
        if fault.harmful or fault.kind in NOT_LEARNT:
            faulty.setdefault(fault.image, set()).add(fault.object)
    sizes = {fault.image for fault in content.faults if fault.kind == 'invalid size'}
    corners = any(fault.kind == 'sizes instead of corners' for fault in content.faults)
    merged: dict[int, list[int]] = {}
    for index, first in firsts.items():
        if index not in left_out and first not in left_out and names[index] != names[first]:
            merged.setdefault(first, []).append(index)
    repeated = {index for index, first in firsts.items() if first not in left_out}
    kept_indices = [index for index in range(len(names)) if index not in left_out | repeated]
    if not kept_indices:
        raise InputError(f'nothing in {content.file} could be kept; restore its images and XMLs')
    cleaned_files: dict[Path, bytes] = {}
    path = content.file
    if left_out or repeated or any(fault.kind == 'invalid list line' for fault in content.faults):
        path = content.file.with_name(f'{content.file.stem}{CLEAN}.txt')
        cleaned_files[path] = ''.join(f'{names[index]}\n' for index in kept_indices).encode()
    # Set even if the list is unchanged, because the clean XMLs are those of this list.
    options = dict(ann_file=str(path.absolute()))
    objects_out = sum(content.images[index].objects for index in left_out)
    if corners or any(index in {*faulty, *sizes, *merged} for index in kept_indices):
        folder = split.annotations.with_name(f'{split.annotations.name}{CLEAN}')
        for index in kept_indices:
            xml = _Xml(split, index, faulty.get(index, set()), corners)
            for other in merged.get(index, ()):
                xml.merge(_Xml(split, other, faulty.get(other, set()), corners))
            cleaned_files[folder / f'{names[index]}.xml'] = xml.written(index in sizes)
            objects_out += xml.left_out
        options['ann_subdir'] = os.path.relpath(folder, split.root)
    return Clean(cleaned_files, options if cleaned_files else {}, len(left_out), objects_out)


class _Xml:
    """An XML file of a VOC split, without its faulty objects.

    Args:
        index: index of the image.
        faulty: indices of the objects that are left out.
        corners: the boxes have width and height in place of xmax and ymax; write the corners.
    """

    def __init__(self, split: AnnotatedSplit, index: int, faulty: set[int], corners: bool) -> None:
        self.file = split.annotations / f'{split.content.names[index]}.xml'
        self.size = split.content.images[index].size
        self.root = ET.parse(self.file).getroot()
        self.changed, self.left_out = bool(faulty) or corners, 0
        for number, item in enumerate(self.root.findall('object')):
            empty = corners and number not in faulty and _write_corners(item, self.size)
            if empty or number in faulty:
                self.root.remove(item)
                self.left_out += 1

    def merge(self, other: _Xml) -> None:
        """Add the objects that only the other XML of the same image has."""
        own = [_box_of(item) for item in self.root.findall('object')]
        items = other.root.findall('object')
        self.root.extend(item for item in items if _box_of(item) not in own)
        self.left_out += other.left_out
        self.changed = True

    def written(self, sized: bool) -> bytes:
        """The content of the clean file; with the corrected image size if `sized`."""
        parent = self.root.find('size')
        if sized and self.size and parent is not None:
            for tag, value in zip(('width', 'height'), self.size, strict=True):
                node = parent.find(tag)
                node = ET.SubElement(parent, tag) if node is None else node
                node.text = str(value)
        elif not self.changed:
            return self.file.read_bytes()
        return ET.tostring(self.root) + b'\n'


def _box_of(item: ET.Element) -> list[str | None]:
    """The class and the box of an object, as text."""
    return [item.findtext(path) for path in ('name', *(f'bndbox/{side}' for side in SIDES))]


def _write_corners(item: ET.Element, size: tuple[float, float] | None) -> bool:
    """Replace an object's width and height by its second corner, clipped to the image.

    Returns:
        Whether the box contains no pixel of the image. False if the object has no valid box, which
        is possible for classes that the config does not read.
    """
    try:
        right, bottom = as_corners(sides_of(item))[2:]
    except ValueError:
        return False
    width, height = size or (right, bottom)
    for side, value in zip(SIDES[2:], (min(right, width), min(bottom, height)), strict=True):
        node = item.find(f'bndbox/{side}')
        assert node is not None  # `sides_of` has read it
        node.text = f'{value:g}'
    fault = object_fault(item, item.findtext('name'), size)
    return fault is not None and fault[0] in NOT_LEARNT


def _check_links(split: AnnotatedSplit) -> None:
    """Raise InputError with a command that links images of other names as NAME.jpg."""
    links = {}
    for fault in split.content.faults:
        if fault.kind == 'image under another name':
            actual_path = file_under_another_name(fault.place)
            links[fault.place] = os.path.abspath(actual_path or fault.place)
    if not links:
        return
    stems = [[os.path.splitext(path)[0] for path in pair] for pair in links.items()]
    if all(os.path.abspath(link) == actual for link, actual in stems):
        files = f'{shlex.quote(str(split.images.absolute()))}/*'
        line = f'for f in {files}; do [ -e "${{f%.*}}.jpg" ] || '
        line += 'ln -s "${f##*/}" "${f%.*}.jpg"; done'
    else:
        line = ' && '.join(
            shlex.join(['ln', '-s', actual_path, os.path.abspath(link)])
            for link, actual_path in links.items()
        )
    raise InputError(f"mmdet reads VOC's images as NAME.jpg; link them by that name: {line}")
