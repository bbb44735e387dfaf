"""A VOC list and its XML files, as mmdet 3.x reads them, and every fault in them."""

from __future__ import annotations

import reprlib
import xml.etree.ElementTree as ET
from collections.abc import Collection
from pathlib import Path

from PIL import Image

from ...utils.errors import InputError
from .coco import KINDS_WITH_KEPT_BOX
from .content import LARGEST, Content, ListedImage, box_fault, is_number
from .images import shown_and_stored_size


def read_voc(
    path: Path, annotations: Path, images: Path, classes: Collection[str] | None = None
) -> Content:
    """Read the images of a VOC list and their XML files.

    Args:
        path: list of image names, such as ImageSets/Main/train.txt.
        annotations, images: the folders of NAME.xml and NAME.jpg.
        classes: names whose objects mmdet reads; None for all. Of others the name is counted.

    Raises:
        InputError: the list is no text in UTF-8, or is empty.
    """
    content = Content(path, names=read_list(path))
    earlier = set()
    for index, name in enumerate(content.names):
        file = annotations / f'{name}.xml'
        size, object_count, picture = None, 0, str(images / f'{name}.jpg')
        if not name.strip() or '\0' in name or (len(name.split()) > 1 and not file.is_file()):
            place = f'{path}, line {index + 1}:'
            content.add_fault('list line', place, f'{name!r} is no image name', image=index)
            picture = ''
        elif not file.is_file():
            content.add_fault('annotation missing', str(file), 'is not there', image=index)
        else:
            size, object_count = _read_xml(content, index, file, Path(picture), classes)
        if name in earlier:
            place = f'{path}, line {index + 1}:'
            message = f'{name!r} is listed before'
            content.add_fault('image listed twice', place, message, hurts=False, image=index)
        earlier.add(name)
        content.images.append(ListedImage(picture, size, object_count))
    return content


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
    content: Content, image: int, file: Path, picture: Path, classes: Collection[str] | None
) -> tuple[tuple[int, int] | None, int]:
    """The size of an image, and how many objects mmdet reads of it; faults go to `content`."""
    try:
        root = ET.parse(file).getroot()
    except (ET.ParseError, ValueError, LookupError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        content.add_fault('no XML', str(file), f'is no XML ({reason})', image=image)
        return None, 0
    size = _xml_size(content, image, root, file) or _header_size(picture)
    object_count = 0
    for index, item in enumerate(root.findall('object')):
        place = f'{file}: object {index + 1}'
        content.objects += 1
        name = item.findtext('name')
        content.classes[name or ''] += 1
        if name and classes is not None and name not in classes:
            continue
        object_count += 1
        fault = _object_fault(item, name, size)
        if fault:
            content.add_fault(fault[0], place, fault[1], hurts=fault[2], image=image, object=index)
        is_kept = fault is None or fault[0] in KINDS_WITH_KEPT_BOX
        content.usable += is_kept and not _difficult(item)
    content.classes.pop('', None)
    return size, object_count


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
        message = f'has a size of {texts[0]!r:.40} x {texts[1]!r:.40}'
        content.add_fault('size', f'{file}:', message, image=image)
        return None
    return width, height


def _header_size(path: Path) -> tuple[int, int] | None:
    """(width, height) of an image file as it is shown; None where it cannot be told."""
    try:
        with Image.open(path) as picture:
            return shown_and_stored_size(picture)[0]
    except Exception:  # of an image that the check of the images names
        return None


def _difficult(item: ET.Element) -> bool:
    try:
        return int(item.findtext('difficult', '0')) != 0
    except ValueError:
        return False  # a fault, said already


def _object_fault(
    item: ET.Element, name: str | None, size: tuple[float, float] | None
) -> tuple[str, str, bool] | None:
    """The first fault of a VOC object as (kind, message, hurts)."""
    box = item.find('bndbox')
    sides = ['xmin', 'ymin', 'xmax', 'ymax']
    texts = [None if box is None else box.findtext(side) for side in sides]
    try:
        values = [float(text or '') for text in texts]
    except ValueError:
        values = [float('nan')]
    if not all(map(is_number, values)):
        return 'no box', f'has no bndbox of four numbers ({reprlib.repr(texts)})', True
    if not name or not name.strip():
        return 'annotation entry', 'has no name', True
    if (difficult := item.findtext('difficult')) is not None:
        try:
            int(difficult)
        except ValueError:
            message = f'has difficult={difficult!r:.40}, neither 0 nor 1'
            return 'annotation entry', message, True
    # As mmdet reads them: whole, counted from 0, and the last pixel for the edge.
    left, top, right, bottom = (int(value) - 1 for value in values)
    message = 'has the box ' + ', '.join(
        f'{side}={text}' for side, text in zip(sides, texts, strict=True)
    )
    hurts = not _difficult(item)
    if right <= left or bottom <= top:
        message += ' without area, for which the loss is infinite'
        return 'box without area', message, hurts
    if size and (kind := box_fault((left, top, right, bottom), size)):
        message += f' in an image of {size[0]} x {size[1]}'
        if kind == 'box outside the image':
            message += '; mmdet clips it to a box without area, for which the loss is infinite'
        return kind, message, hurts and kind == 'box outside the image'
    return None
