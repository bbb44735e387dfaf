"""Read a VOC list and its XML files as mmdet 3.x does, and find every fault in them."""

from __future__ import annotations

import os
import reprlib
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from ...utils.errors import InputError
from .coco import KINDS_WITH_KEPT_BOX, OF_ALL_BOXES
from .content import LARGEST, Content, ListedImage, box_fault, is_number
from .images import ENDINGS, file_under_another_name, header_size

SIDES = ('xmin', 'ymin', 'xmax', 'ymax')


class Box(NamedTuple):
    """An object with a box of four numbers.

    Attributes:
        image, number: the index of its image, and its own index in the XML.
        name: its class.
        sides: its box as written.
        difficult: whether mmdet ignores it.
        size: the (width, height) of its image, None if unknown.
    """

    image: int
    number: int
    name: str
    sides: tuple[float, ...]
    difficult: bool
    size: tuple[int, int] | None


def read_voc(
    path: Path, annotations: Path, images: Path, classes: Collection[str] | None = None
) -> Content:
    """Read the images of a VOC list and their XML files.

    Args:
        path: a list of image names, such as ImageSets/Main/train.txt.
        annotations, images: the folders of NAME.xml and NAME.jpg.
        classes: classes whose objects mmdet reads; None for all. Objects of other classes are only
            counted.

    Raises:
        InputError: the list is not UTF-8 or is empty, or a folder does not exist.
    """
    content = Content(path, names=read_list(path))
    check_folder(annotations, f'the XMLs of {path}', 'ann_subdir, data_prefix.sub_data_root')
    check_folder(images, f'the images of {path}', 'img_subdir, data_prefix.sub_data_root')
    first_lines: dict[str, int] = {}
    boxes: list[Box] = []
    for index, name in enumerate(content.names):
        place, size, object_count = f'{path}, line {index + 1}:', None, 0
        meant = meant_name(name, annotations)
        picture = str(images / f'{meant or name}.jpg')
        if meant is None and (len(name.split()) != 1 or '\0' in name):
            content.add_fault(
                'invalid list line', place, f'{name!r} is not an image name', image=index
            )
            picture = ''
        elif meant is None:
            file = annotations / f'{name}.xml'
            content.add_fault('annotation missing', str(file), 'does not exist', image=index)
        else:
            file = annotations / f'{meant}.xml'
            if meant != name:
                message = f'{name!r} is not an image name, but {file} exists'
                content.add_fault('invalid list line', place, message, image=index)
            size, object_count = read_xml(content, index, file, Path(picture), classes, boxes)
        content.names[index] = name = meant or name
        if name in first_lines and picture:
            message, first = f'{name!r} is already listed', first_lines[name]
            content.add_fault('image listed twice', place, message, image=index, first=first)
        first_lines.setdefault(name, index)
        content.images.append(ListedImage(picture, size, object_count))
    for box in boxes:
        values = str((box.name, box.sides, box.difficult))
        content.voc_boxes.setdefault(box.image, Counter())[values] += 1
    check_boxes_together(content, boxes)
    return content


def check_folder(folder: Path, holds: str, keys: str) -> None:
    """Raise InputError if `folder` does not exist.

    Args:
        holds: what the folder should contain, for the message.
        keys: the keys of a config that set the folder, for the message.
    """
    if not folder.is_dir():
        raise InputError(
            f'no folder {folder}, where {holds} should be; restore it, or set another folder in '
            f'the config ({keys})'
        )


def meant_name(name: str, annotations: Path) -> str | None:
    """The image name that a line of a list means, with the letter case of its XML file.

    Blanks, a byte order mark, a second column, a file ending and folders are ignored. None if there
    is no such XML file.
    """
    if name.strip() and os.path.isfile(annotations / f'{name}.xml'):
        return name
    text = name.replace('\\', '/').removeprefix('\ufeff').strip()
    if not text or '\0' in text:
        return None
    for words in dict.fromkeys((text, text.split()[0])):
        for file in dict.fromkeys((words, words.rpartition('/')[2])):
            stem, ending = os.path.splitext(file)
            stems = [file, stem] if ending.lower() in (*ENDINGS, '.xml') else [file]
            for stem in filter(None, stems):
                actual = file_under_another_name(str(annotations / f'{stem}.xml'))
                if actual is not None and actual.endswith('.xml'):
                    return Path(os.path.relpath(actual, annotations)).with_suffix('').as_posix()
    return None


def check_boxes_together(content: Content, boxes: list[Box]) -> None:
    """Add the faults that all boxes together show: sizes instead of corners, values in 0..1."""
    content.ignore_few('box twice', content.objects)
    example = ', '.join(f'{value:g}' for value in boxes[0].sides) if boxes else ''
    are_relative = all(0 <= value <= 1 for box in boxes for value in box.sides)
    without_area = [box for box in boxes if _without_area(box.sides)]
    fit_as_sizes = [
        box for box in boxes if box.size and box_fault(as_corners(box.sides), box.size) is None
    ]
    if are_relative and any(0 < value < 1 for box in boxes for value in box.sides):
        kind = 'boxes in 0..1'
        message = f'has {len(boxes)} boxes with all values from 0 to 1 ({example}), not in pixels'
    elif len(without_area) >= max(3, 0.1 * len(boxes)) and len(fit_as_sizes) > 0.9 * len(boxes):
        example = ', '.join(f'{value:g}' for value in without_area[0].sides)
        kind = 'sizes instead of corners'
        message = (
            f'has {len(boxes)} boxes: {len(without_area)} have no area as corners, but '
            f'{len(fit_as_sizes)} fit their image as x, y, width, height ({example})'
        )
    else:
        return
    explained = [fault for fault in content.faults if fault.kind in OF_ALL_BOXES]
    content.faults = [fault for fault in content.faults if fault.kind not in OF_ALL_BOXES]
    is_harmful = any(fault.harmful for fault in explained)
    content.add_fault(kind, f'{content.file}:', message, harmful=is_harmful)


def _without_area(sides: tuple[float, ...]) -> bool:
    left, top, right, bottom = map(int, sides)
    return right <= left or bottom <= top


def as_corners(sides: tuple[float, ...]) -> tuple[float, ...]:
    """Convert x, y, width, height to corners from which mmdet gets the same width and height."""
    left, top, width, height = sides
    return left, top, left + width, top + height


def read_list(path: Path) -> list[str]:
    """The image names of a VOC list, one per line, as mmdet reads them.

    Like mmdet, it keeps a byte order mark as part of the first name.

    Raises:
        InputError: the list is not UTF-8, or is empty.
    """
    try:
        text = path.read_text(encoding='utf-8')
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b'\n') + 1
        raise InputError(
            f'{path}, line {line} is not valid UTF-8 ({error.reason}); save the list as UTF-8, '
            'with the names of the images'
        ) from None
    names = text.split('\n')
    names = names[:-1] if names[-1] == '' else names
    if not any(name.removeprefix('\ufeff') for name in names):
        raise InputError(
            f'{path} lists no images; write one image name per line, without the file ending'
        )
    return names


def read_xml(
    content: Content,
    image: int,
    file: Path,
    picture: Path,
    classes: Collection[str] | None,
    boxes: list[Box],
) -> tuple[tuple[int, int] | None, int]:
    """Read the XML file of an image.

    Args:
        content: its faults and counts are added to it.
        image: index of the image.
        file: the XML file.
        picture: the image file, which gives the size if the XML does not.
        classes: see `read_voc`.
        boxes: the objects with boxes of four numbers are added to it.

    Returns:
        The (width, height) of the image, if known, and the number of objects that mmdet reads.
    """
    try:
        root = ET.parse(file).getroot()
    except (ET.ParseError, ValueError, LookupError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        message = f'is not valid XML ({reason})'
        if _is_in_another_encoding(file, error):
            message += ': save it as UTF-8, with encoding="UTF-8" in its first line, or none there'
        content.add_fault('invalid XML', str(file), message, image=image)
        return None, 0
    size = _xml_size(content, image, root, file) or header_size(picture)
    object_count, earlier = 0, set()
    for index, item in enumerate(root.findall('object')):
        place = f'{file}: object {index + 1}'
        content.objects += 1
        name = item.findtext('name')
        content.classes[name or ''] += 1
        if name and classes is not None and name not in classes:
            continue
        object_count += 1
        fault = object_fault(item, name, size)
        if name and (fault is None or fault[0] in OF_ALL_BOXES):
            sides = sides_of(item)
            if fault is None and (name, sides) in earlier:
                message = f'has the same class and box {sides} as an earlier object of its image'
                fault = 'box twice', message, True
            earlier.add((name, sides))
            boxes.append(Box(image, index, name, sides, is_difficult(item), size))
        if fault:
            content.add_fault(
                fault[0], place, fault[1], harmful=fault[2], image=image, object=index
            )
        is_kept = fault is None or fault[0] in KINDS_WITH_KEPT_BOX
        content.usable += is_kept and not is_difficult(item)
    content.classes.pop('', None)
    return size, object_count


def _is_in_another_encoding(file: Path, error: Exception) -> bool:
    """Whether an XML is in an encoding that Python's parser cannot read, or does not declare it."""
    if isinstance(error, (ValueError, LookupError)):  # its first line declares one, such as GBK
        return True
    try:
        file.read_bytes().decode()
    except (UnicodeDecodeError, OSError) as problem:
        return isinstance(problem, UnicodeDecodeError)
    return False


def _xml_size(content: Content, image: int, root: ET.Element, file: Path) -> tuple[int, int] | None:
    """The (width, height) that mmdet reads; None if there is none: mmdet then opens the image."""
    size = root.find('size')
    if size is None:
        return None
    texts = [size.findtext(side) for side in ('width', 'height')]
    try:
        width, height = (int(text or '') for text in texts)
    except ValueError:
        width = height = 0
    if not (0 < width < LARGEST and 0 < height < LARGEST):
        message = f'has a size of {texts[0]!r:.40} x {texts[1]!r:.40}'
        content.add_fault('invalid size', f'{file}:', message, image=image)
        return None
    return width, height


def is_difficult(item: ET.Element) -> bool:
    try:
        return int(item.findtext('difficult', '0')) != 0
    except ValueError:
        return False  # a fault, which is reported already


def sides_of(item: ET.Element) -> tuple[float, ...]:
    """xmin, ymin, xmax, ymax of an object.

    Raises:
        ValueError: one is missing, or is not a number.
    """
    return tuple(float(item.findtext(f'bndbox/{side}') or '') for side in SIDES)


def object_fault(
    item: ET.Element, name: str | None, size: tuple[float, float] | None
) -> tuple[str, str, bool] | None:
    """The first fault of a VOC object as (kind, message, harmful)."""
    texts = [item.findtext(f'bndbox/{side}') for side in SIDES]
    try:
        values = sides_of(item)
    except ValueError:
        values = (float('nan'),)
    if not all(map(is_number, values)):
        return 'invalid box', f'has no bndbox of four numbers ({reprlib.repr(texts)})', True
    if not name or not name.strip():
        return 'invalid annotation', 'has no name', True
    if (difficult := item.findtext('difficult')) is not None:
        try:
            int(difficult)
        except ValueError:
            message = f'has difficult={difficult!r:.40}, which is neither 0 nor 1'
            return 'invalid annotation', message, True
    # mmdet truncates the values, subtracts 1, and takes the last pixel as the edge.
    left, top, right, bottom = (int(value) - 1 for value in values)
    message = 'has the box ' + ', '.join(
        f'{side}={text}' for side, text in zip(SIDES, texts, strict=True)
    )
    is_harmful = not is_difficult(item)
    if right <= left or bottom <= top:
        message += ' without area, which makes the loss infinite'
        return 'box without area', message, is_harmful
    if size and (kind := box_fault((left, top, right, bottom), size)):
        message += f' in an image of {size[0]} x {size[1]}'
        if kind == 'box outside the image':
            message += ', and mmdet clips it to a box without area, which makes the loss infinite'
        return kind, message, is_harmful and kind == 'box outside the image'
    return None
