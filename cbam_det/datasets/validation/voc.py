"""A VOC list and its XML files, as mmdet 3.x reads them, and every fault in them."""

from __future__ import annotations

import reprlib
import xml.etree.ElementTree as ET
from collections.abc import Collection
from pathlib import Path

from PIL import Image

from ...utils.errors import InputError
from .coco import KEPT
from .content import LARGEST, Content, Picture, is_number, place_fault
from .images import _turned


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
    seen = set()
    for index, name in enumerate(content.names):
        file = annotations / f'{name}.xml'
        size, kept, picture = None, 0, str(images / f'{name}.jpg')
        if not name.strip() or '\0' in name or (len(name.split()) > 1 and not file.is_file()):
            place = f'{path}, line {index + 1}:'
            content.add_fault('list line', place, f'{name!r} is no image name', image=index)
            picture = ''
        elif not file.is_file():
            content.add_fault('annotation missing', str(file), 'is not there', image=index)
        else:
            size, kept = _read_xml(content, index, file, Path(picture), classes)
        if name in seen:
            place = f'{path}, line {index + 1}:'
            said = f'{name!r} is listed before'
            content.add_fault('image listed twice', place, said, hurts=False, image=index)
        seen.add(name)
        content.images.append(Picture(picture, size, kept))
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
        said = f'is no XML ({str(error).splitlines()[0] if str(error) else type(error).__name__})'
        content.add_fault('no XML', str(file), said, image=image)
        return None, 0
    size = _xml_size(content, image, root, file) or _header_size(picture)
    kept = 0
    for index, item in enumerate(root.findall('object')):
        place = f'{file}: object {index + 1}'
        content.objects += 1
        name = item.findtext('name')
        content.classes[name or ''] += 1
        if name and classes is not None and name not in classes:
            continue
        kept += 1
        found = _object_fault(item, name, size)
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


def _header_size(path: Path) -> tuple[int, int] | None:
    """(width, height) of an image file as it is shown; None where it cannot be told."""
    try:
        with Image.open(path) as picture:
            return _turned(picture)[0]
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
    """The first fault of a VOC object as (kind, said, hurts)."""
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
            said = f'has difficult={difficult!r:.40}, neither 0 nor 1'
            return 'annotation entry', said, True
    # As mmdet reads them: whole, counted from 0, and the last pixel for the edge.
    left, top, right, bottom = (int(value) - 1 for value in values)
    said = 'has the box ' + ', '.join(
        f'{side}={text}' for side, text in zip(sides, texts, strict=True)
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
