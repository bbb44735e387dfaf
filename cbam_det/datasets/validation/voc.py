"""A VOC list and its XML files, as mmdet 3.x reads them, and every fault in them."""

from __future__ import annotations

import os
import reprlib
import xml.etree.ElementTree as ET
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from ...utils.errors import InputError
from .coco import KEPT
from .content import LARGEST, Content, Picture, is_number, place_fault
from .images import ENDINGS, file_under_another_name, header_size

SIDES = ('xmin', 'ymin', 'xmax', 'ymax')
# What all boxes of a set show of each when they are read in another way than they are meant.
OF_ALL_BOXES = ('box without area', 'box outside the image', 'box beyond the edge')


class Box(NamedTuple):
    """A box as its XML has it, and the (width, height) of its image."""

    sides: tuple[float, ...]
    size: tuple[int, int] | None


def read_voc(
    path: Path, annotations: Path, images: Path, classes: Collection[str] | None = None
) -> Content:
    """Read the images of a VOC list and their XML files.

    Args:
        path: list of image names, such as ImageSets/Main/train.txt.
        annotations, images: the folders of NAME.xml and NAME.jpg.
        classes: names whose objects mmdet reads; None for all. Of others the name is counted.

    Raises:
        InputError: the list is no text in UTF-8, or is empty; a folder is not there.
    """
    content = Content(path, names=read_list(path))
    check_folder(annotations, f'the XMLs of {path}', 'ann_subdir, data_prefix.sub_data_root')
    check_folder(images, f'the images of {path}', 'img_subdir, data_prefix.sub_data_root')
    seen: dict[str, int] = {}
    boxes: list[Box] = []
    for index, name in enumerate(content.names):
        place, size, kept = f'{path}, line {index + 1}:', None, 0
        meant = meant_name(name, annotations)
        picture = str(images / f'{meant or name}.jpg')
        if meant is None and (len(name.split()) != 1 or '\0' in name):
            content.add_fault('list line', place, f'{name!r} is no image name', image=index)
            picture = ''
        elif meant is None:
            file = annotations / f'{name}.xml'
            content.add_fault('annotation missing', str(file), 'is not there', image=index)
        else:
            file = annotations / f'{meant}.xml'
            if meant != name:
                said = f'{name!r} is no image name, but {file} is there'
                content.add_fault('list line', place, said, image=index)
            size, kept = _read_xml(content, index, file, Path(picture), classes, boxes)
        content.names[index] = name = meant or name
        if name in seen and picture:
            said, first = f'{name!r} is listed before', seen[name]
            content.add_fault('image listed twice', place, said, image=index, first=first)
        seen.setdefault(name, index)
        content.images.append(Picture(picture, size, kept))
    _judge_boxes(content, boxes)
    return content


def check_folder(folder: Path, holds: str, keys: str) -> None:
    """Raise InputError where `folder` is not there, for `holds` by the `keys` of a config."""
    if not folder.is_dir():
        raise InputError(
            f'no folder {folder}, where {holds} should be; restore it, or give a config that '
            f'names another ({keys})'
        )


def meant_name(name: str, annotations: Path) -> str | None:
    """The image name that a line of a list means: itself, or without blanks, a second column, an
    ending or folders, and in the letter case of its XML; None where no such XML is there.
    """
    if name.strip() and os.path.isfile(annotations / f'{name}.xml'):
        return name
    text = name.replace('\\', '/').strip()
    if not text or '\0' in text:
        return None
    for words in dict.fromkeys((text, text.split()[0])):
        for file in dict.fromkeys((words, words.rpartition('/')[2])):
            stem, ending = os.path.splitext(file)
            stems = [file, stem] if ending.lower() in (*ENDINGS, '.xml') else [file]
            for one in filter(None, stems):
                there = file_under_another_name(str(annotations / f'{one}.xml'))
                if there is not None and there.endswith('.xml'):
                    return Path(os.path.relpath(there, annotations)).with_suffix('').as_posix()
    return None


def _judge_boxes(content: Content, boxes: list[Box]) -> None:
    """Add the faults that all boxes show together: sizes for corners, numbers in 0..1."""
    content.judge_copies('box twice', content.objects)
    example = ', '.join(f'{value:g}' for value in boxes[0].sides) if boxes else ''
    relative = all(0 <= value <= 1 for box in boxes for value in box.sides)
    bare = [box for box in boxes if _without_area(box.sides)]
    fitting = [
        box for box in boxes if box.size and place_fault(as_corners(box.sides), box.size) is None
    ]
    if relative and any(0 < value < 1 for box in boxes for value in box.sides):
        kind, said = 'boxes in 0..1', f'all of numbers from 0 to 1 ({example}), not pixels'
    elif len(bare) >= max(3, 0.1 * len(boxes)) and len(fitting) > 0.9 * len(boxes):
        example = ', '.join(f'{value:g}' for value in bare[0].sides)
        kind, said = 'sizes for corners', f'of which {len(bare)} have no area as corners, and '
        said += f'{len(fitting)} fit their image as x, y, width, height ({example})'
    else:
        return
    alike = [fault for fault in content.faults if fault.kind in OF_ALL_BOXES]
    content.faults = [fault for fault in content.faults if fault.kind not in OF_ALL_BOXES]
    hurts = any(fault.hurts for fault in alike)
    content.add_fault(kind, f'{content.file}:', f'has {len(boxes)} boxes, {said}', hurts=hurts)


def _without_area(sides: tuple[float, ...]) -> bool:
    left, top, right, bottom = map(int, sides)
    return right <= left or bottom <= top


def as_corners(sides: tuple[float, ...]) -> tuple[float, ...]:
    """The corners of x, y, width, height; mmdet reads the same width and height of them."""
    left, top, width, height = sides
    return left, top, left + width, top + height


def read_list(path: Path) -> list[str]:
    """The image names of a VOC list, one a line; InputError where it is none."""
    try:
        text = path.read_text(encoding='utf-8')
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b'\n') + 1
        raise InputError(
            f'{path}, line {line} is no UTF-8 ({error.reason}); save the list as UTF-8, and give '
            'the images names in it'
        ) from None
    if text.startswith('\ufeff'):
        raise InputError(f'{path} begins with a byte order mark; save it as UTF-8 without one')
    names = text.split('\n')
    names = names[:-1] if names[-1] == '' else names
    if not any(names):
        raise InputError(f'{path} lists no images; give one image name a line, without its ending')
    return names


def _read_xml(
    content: Content,
    image: int,
    file: Path,
    picture: Path,
    classes: Collection[str] | None,
    boxes: list[Box],
) -> tuple[tuple[int, int] | None, int]:
    """The size of an image, and how many objects mmdet reads of it; faults go to `content`, and
    those with four numbers to `boxes`.
    """
    try:
        root = ET.parse(file).getroot()
    except (ET.ParseError, ValueError, LookupError, OSError) as error:
        said = f'is no XML ({str(error).splitlines()[0] if str(error) else type(error).__name__})'
        content.add_fault('no XML', str(file), said, image=image)
        return None, 0
    size = _xml_size(content, image, root, file) or header_size(picture)
    kept, seen = 0, set()
    for index, item in enumerate(root.findall('object')):
        place = f'{file}: object {index + 1}'
        content.objects += 1
        name = item.findtext('name')
        content.classes[name or ''] += 1
        if name and classes is not None and name not in classes:
            continue
        kept += 1
        found = object_fault(item, name, size)
        if found is None or found[0] in OF_ALL_BOXES:
            sides = sides_of(item)
            if found is None and (name, sides) in seen:
                said = f'has the class and the box {sides} of an earlier one of its image'
                found = 'box twice', said, True
            seen.add((name, sides))
            boxes.append(Box(sides, size))
        if found:
            content.add_fault(found[0], place, found[1], hurts=found[2], image=image, object=index)
        content.usable += (found is None or found[0] in KEPT) and not _difficult(item)
    content.classes.pop('', None)
    return size, kept


def _xml_size(content: Content, image: int, root: ET.Element, file: Path) -> tuple[int, int] | None:
    """(width, height) that mmdet reads; None without a size, for which it opens the image."""
    size = root.find('size')
    if size is None:
        return None
    texts = [size.findtext(side) for side in ('width', 'height')]
    try:
        width, height = (int(text or '') for text in texts)
    except ValueError:
        width = height = 0
    if not (0 < width < LARGEST and 0 < height < LARGEST):
        said = f'has a size of {texts[0]!r:.40} x {texts[1]!r:.40}'
        content.add_fault('size', f'{file}:', said, image=image)
        return None
    return width, height


def _difficult(item: ET.Element) -> bool:
    try:
        return int(item.findtext('difficult', '0')) != 0
    except ValueError:
        return False  # a fault, said already


def sides_of(item: ET.Element) -> tuple[float, ...]:
    """xmin, ymin, xmax, ymax of an object.

    Raises:
        ValueError: they are not there, or no numbers.
    """
    return tuple(float(item.findtext(f'bndbox/{side}') or '') for side in SIDES)


def object_fault(
    item: ET.Element, name: str | None, size: tuple[float, float] | None
) -> tuple[str, str, bool] | None:
    """The first fault of a VOC object as (kind, said, hurts)."""
    texts = [item.findtext(f'bndbox/{side}') for side in SIDES]
    try:
        values = sides_of(item)
    except ValueError:
        values = (float('nan'),)
    if not all(map(is_number, values)):
        return 'no box', f'has no bndbox of four numbers ({reprlib.repr(texts)})', True
    if not name or not name.strip():
        return 'annotation entry', 'has no name', True
    if (difficult := item.findtext('difficult')) is not None:
        try:
            int(difficult)
        except ValueError:
            said = f'has difficult={difficult!r:.40}, neither 0 nor 1'
            return 'annotation entry', said, True
    # As mmdet reads them: whole, counted from 0, and the last pixel for the edge.
    left, top, right, bottom = (int(value) - 1 for value in values)
    said = 'has the box ' + ', '.join(
        f'{side}={text}' for side, text in zip(SIDES, texts, strict=True)
    )
    hurts = not _difficult(item)
    if right <= left or bottom <= top:
        said += ' without area, for which the loss is infinite'
        return 'box without area', said, hurts
    if size and (found := place_fault((left, top, right, bottom), size)):
        said += f' in an image of {size[0]} x {size[1]}'
        if found == 'box outside the image':
            said += '; mmdet clips it to a box without area, for which the loss is infinite'
        return found, said, hurts and found == 'box outside the image'
    return None
