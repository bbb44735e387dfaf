"""What a COCO file or a VOC list holds, as mmdet 3.x reads it, and every fault in it.

One list of faults serves the check before a run (`dataset.py`) and that of a whole folder
(`folder.py`). A fault *hurts* where mmdet would stop on it, learn from it or score by it; the
others it passes over without a word (boxes of COCO without area, say), so that they are counted.
This file imports no mmdet.
"""

from __future__ import annotations

import gc
import hashlib
import io
import json
import os
import reprlib
import stat
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from rich.progress import track

from ...utils.errors import InputError

COCO_REMEDY = 'give a COCO detection file with images, annotations and categories'
LARGEST = 1e15  # beyond it a float does not count single pixels
EXIF_ORIENTATION = 0x0112
ENDINGS = ('.jpg', '.jpeg', '.png', '.JPG', '.JPEG', '.PNG', '.bmp', '.webp', '.tif')
# Whose size Pillow's header and the EXIF tag tell as OpenCV decodes it; others are decoded by both.
LIKE_OPENCV = ('JPEG', 'MPO', 'PNG', 'BMP')

# Kinds of fault and what mends them.
FIX = 'tools/check_data.py --fix'
MEND = f'mend the file, or leave it out by {FIX}'
RESTORE = f'restore it, or take it out of the annotations ({FIX})'
REMEDIES = {
    'category entry': 'mend the file',
    'image entry': MEND,
    'image id twice': f'give each image an id of its own, or leave it out by {FIX}',
    'annotation entry': f'mend the file, or have it filled in or left out by {FIX}',
    'no box': MEND,
    'annotation id twice': f'give each annotation an id of its own ({FIX})',
    'image not listed': MEND,
    'category not listed': MEND,
    'box without area': MEND,
    'box outside the image': MEND,
    'box beyond the edge': 'clip it, where it is more than rounding',
    'annotation id 0': f'count annotation ids from 1 ({FIX})',
    'list line': 'mmdet reads the whole line, so leave no blank lines and no second column',
    'image listed twice': 'list it once',
    'annotation missing': f'restore it, or take it off the list ({FIX})',
    'no XML': f'restore it, or take it off the list ({FIX})',
    'size': f'write the width and the height of the image, in whole pixels ({FIX})',
    'image missing': RESTORE,
    'image empty': RESTORE,
    'image unreadable': RESTORE,
    'same image in two splits': 'take it out of one of them',
    'same image twice': 'keep one of them',
    'count': 'fetch it again, where it should be whole',
    'size differs': (
        'the boxes may belong to another image: annotate it as it is shown, or take its EXIF '
        'orientation away, which mmdet follows'
    ),
}


# What the config can do where mmdet does not pass such a box over by itself.
AREAS = {
    'box without area': "pass such boxes over: the data set's filter_cfg=dict(bbox_min_size=1)",
    'box outside the image': (
        "drop such boxes: dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1)) after Resize in "
        'the pipeline'
    ),
}


class Fault(NamedTuple):
    """One fault.

    Attributes:
        kind: key of `REMEDIES`.
        place: file, and what in it.
        said: what is wrong there.
        hurts: mmdet would stop on it, learn from it or score by it.
        image: index in `Content.images`, or None.
        object: index in COCO's `annotations` or among the XML's objects, or None.
    """

    kind: str
    place: str
    said: str
    hurts: bool = True
    image: int | None = None
    object: int | None = None

    def __str__(self) -> str:
        return f'{self.place} {self.said}'


def remedy_of(fault: Fault) -> str:
    """What mends a fault, in the files or in the config."""
    in_config = AREAS.get(fault.kind) if fault.hurts else None
    return f'{in_config}, or {MEND}' if in_config else REMEDIES[fault.kind]


class Picture(NamedTuple):
    """An image of a set: its file, its size (width, height) if told, and how many objects."""

    path: str
    size: tuple[float, float] | None
    objects: int


@dataclass
class Content:
    """What one annotation file lists.

    Attributes:
        file: COCO's JSON, or VOC's image list.
        images: its images in the file's order; a COCO entry that cannot be read has path ''.
        faults: everything that is wrong, in the file's order.
        classes: objects of each class name; names without objects too where the file lists them.
        objects: all annotations.
        usable: objects that can be learnt: whole, with area, neither crowd nor difficult.
        raw: the JSON, or the image names of the list.
    """

    file: Path
    images: list[Picture] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    classes: Counter[str] = field(default_factory=Counter)
    objects: int = 0
    usable: int = 0
    raw: dict | list[str] = field(default_factory=dict)

    def say(self, kind: str, place: str, said: str, **more: object) -> None:
        """Add a fault of `kind` at `place`, which is within the file."""
        self.faults.append(Fault(kind, place, said, **more))


def is_number(value: object) -> bool:
    """A finite number that a coordinate or an area can be."""
    return isinstance(value, (int, float)) and -LARGEST < value < LARGEST


def as_id(value: object) -> object:
    """An id, if it can be one; else None, which no item has."""
    return value if isinstance(value, (int, float, str)) and value == value else None


def _is_text(value: object) -> bool:
    """A name that can be written: JSON can spell halves of characters, which cannot."""
    return isinstance(value, str) and value.encode('utf-8', 'replace').decode() == value != ''


def _is_file_name(value: object) -> bool:
    try:
        return isinstance(value, str) and b'\0' not in os.fsencode(value) and value != ''
    except UnicodeEncodeError:
        return False


def _load(path: Path, annotated: bool) -> dict:
    try:
        content = json.loads(path.read_bytes().decode('utf-8'))  # as mmdet opens it
    except UnicodeDecodeError as error:
        raise InputError(
            f'{path} is no JSON in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8'
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f'{path} is no JSON ({error}); {COCO_REMEDY}') from None
    if isinstance(content, dict) and not annotated:
        content.setdefault('annotations', [])
    for key in ('images', 'annotations', 'categories'):
        items = content.get(key) if isinstance(content, dict) else None
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise InputError(f'{path} is no COCO JSON, it lacks the list {key!r}; {COCO_REMEDY}')
    if not content['images']:
        raise InputError(f'{path} lists no images; {COCO_REMEDY}')
    return content


def read_coco(
    path: Path,
    folder: str | Path,
    classes: Collection[str] | None = None,
    annotated: bool = True,
    needs_crowd: bool = True,
) -> Content:
    """Read a COCO detection file.

    Args:
        path: the JSON.
        folder: where its `file_name`s lie.
        classes: names to count as objects of an image; None for all.
        annotated: False for a file of images alone, such as COCO's test-dev.
        needs_crowd: the file is for evaluation, which reads `iscrowd` as well.

    Raises:
        InputError: the file is no COCO JSON at all, or lists no images.
    """
    with _without_collector():
        return list_coco(path, _load(path, annotated), folder, classes, needs_crowd)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Python's garbage collector walks millions of new objects again and again, for nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def list_coco(
    path: Path,
    raw: dict,
    folder: str | Path,
    classes: Collection[str] | None = None,
    needs_crowd: bool = True,
) -> Content:
    """`read_coco` of a JSON that is read: dictionaries in the lists images, annotations and
    categories.
    """
    content = Content(path, raw=raw)
    images, annotations = content.raw['images'], content.raw['annotations']
    names = _read_categories(content)
    sizes = _read_images(content)
    needed = ('id', 'image_id', 'category_id', 'bbox', 'area')
    needed += ('iscrowd',) if needs_crowd else ()
    objects: Counter[object] = Counter()
    seen = set()
    for index, item in enumerate(annotations):
        found = _annotation_fault(item, sizes, names, needed, seen)
        if found:
            kind, said, hurts = found
            content.say(kind, f'{path}: annotations[{index}]', said, hurts=hurts, object=index)
        name = names.get(as_id(item.get('category_id')))
        content.classes[name] += 1
        if classes is None or name in classes:
            objects[as_id(item.get('image_id'))] += 1
            kept = found is None or found[0] in KEPT
            content.usable += kept and not item.get('iscrowd') and not item.get('ignore')
    content.classes.pop(None, None)
    content.objects = len(annotations)
    content.images = [
        Picture(
            os.path.join(folder, item['file_name']) if _is_file_name(item.get('file_name')) else '',
            sizes.get(as_id(item.get('id'))),
            objects[as_id(item.get('id'))],
        )
        for item in images
    ]
    return content


KEPT = ('box beyond the edge', 'annotation id 0')  # of which mmdet keeps the box


def _read_categories(content: Content) -> dict:
    """Category id -> name."""
    names = {}
    for index, item in enumerate(content.raw['categories']):
        said = next((f'lacks {key!r}' for key in ('id', 'name') if key not in item), None)
        if said is None and as_id(item['id']) is None:
            said = f'has id={reprlib.repr(item["id"])}, neither a number nor a name'
        if said is None and not _is_text(item['name']):
            said = f'has name={reprlib.repr(item["name"])}, no text'
        if said is None and item['id'] in names:
            said = f'has id={reprlib.repr(item["id"])}, which an earlier one has'
        if said is None and item['name'] in names.values():
            said = f'has name={item["name"]!r}, which an earlier one has'
        if said:
            content.say('category entry', f'{content.file}: categories[{index}]', said)
        else:
            names[item['id']] = item['name']
    content.classes.update(dict.fromkeys(names.values(), 0))
    return names


def _read_images(content: Content) -> dict:
    """Image id -> (width, height), None where they are no size."""
    sizes = {}
    for index, item in enumerate(content.raw['images']):
        kind, said = 'image entry', None
        absent = [key for key in ('file_name', 'id', 'width', 'height') if key not in item]
        number = as_id(item.get('id'))
        if absent:
            said = f'lacks {absent[0]!r}'
        elif not _is_file_name(item['file_name']):
            said = f'has file_name={reprlib.repr(item["file_name"])}, no name of a file'
        elif number is None:
            said = f'has id={reprlib.repr(item["id"])}, neither a number nor a name'
        elif number in sizes:
            kind, said = 'image id twice', f'has id={reprlib.repr(number)}, as an earlier one has'
        size = item.get('width'), item.get('height')
        if not (all(map(is_number, size)) and min(size) > 0):
            said = said or f'has width={size[0]!r:.40} and height={size[1]!r:.40}, no size'
            size = None
        if number is not None:
            sizes.setdefault(number, size)
        if said:
            content.say(kind, f'{content.file}: images[{index}]', said, image=index)
    return sizes


def _annotation_fault(
    item: dict, sizes: dict, names: dict, needed: Iterable[str], seen: set
) -> tuple[str, str, bool] | None:
    """The first fault of an annotation as (kind, said, hurts); hot: a million of them are usual."""
    for name in needed:
        if item.get(name) is None:
            return 'annotation entry', f'lacks {name!r}', True
    box = item['bbox']
    if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
        said = f'has bbox={reprlib.repr(box)}, not four numbers x, y, width, height'
        return 'no box', said, True
    if not is_number(item['area']):
        return 'annotation entry', f'has area={reprlib.repr(item["area"])}, no number', True
    number, image, category = item['id'], as_id(item['image_id']), as_id(item['category_id'])
    if item.get('iscrowd') not in (0, 1, None):
        said = f'has iscrowd={reprlib.repr(item["iscrowd"])}, neither 0 nor 1'
        return 'annotation entry', said, True
    if image not in sizes:
        said = f'has image_id={reprlib.repr(item["image_id"])}, which the file does not list'
        return 'image not listed', said, True
    if category not in names:
        said = f'has category_id={reprlib.repr(item["category_id"])}, which the file does not list'
        return 'category not listed', said, True
    if as_id(number) is None:
        said = f'has id={reprlib.repr(number)}, neither a number nor a name'
        return 'annotation entry', said, True
    if number in seen:
        return 'annotation id twice', f'has id={reprlib.repr(number)}, as an earlier one has', True
    seen.add(number)
    left, top, width, height = box
    if width < 1 or height < 1 or item['area'] <= 0:
        said = f'has bbox={box} and area={item["area"]}'
        return 'box without area', f'{said}: below 1 pixel, which mmdet passes over', False
    if size := sizes[image]:
        found = _place_fault((left, top, left + width, top + height), size)
        if found:
            said = f'has bbox={box} in an image of {size[0]} x {size[1]}'
            said += ', which mmdet passes over' if found == 'box outside the image' else ''
            return found, said, False
    if number == 0:
        said = 'has id=0, by which pycocotools takes a detection of it for a wrong one'
        return 'annotation id 0', said, False
    return None


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
    content = Content(path, raw=read_list(path))
    seen = set()
    for index, name in enumerate(content.raw):
        file = annotations / f'{name}.xml'
        size, kept, picture = None, 0, images / f'{name}.jpg'
        if not name.strip() or '\0' in name or (len(name.split()) > 1 and not file.is_file()):
            place = f'{path}, line {index + 1}:'
            content.say('list line', place, f'{name!r} is no image name', image=index)
            picture = ''
        elif not file.is_file():
            content.say('annotation missing', str(file), 'is not there', image=index)
        else:
            size, kept = _read_xml(content, index, file, picture, classes)
        if name in seen:
            place = f'{path}, line {index + 1}:'
            said = f'{name!r} is listed before'
            content.say('image listed twice', place, said, hurts=False, image=index)
        seen.add(name)
        content.images.append(Picture(str(picture), size, kept))
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
        content.say('no XML', str(file), said, image=image)
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
            content.say(found[0], place, found[1], hurts=found[2], image=image, object=index)
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
        width, height = map(int, texts)
    except (TypeError, ValueError):
        width = height = 0
    if not (0 < width < LARGEST and 0 < height < LARGEST):
        said = f'has a size of {texts[0]!r:.40} x {texts[1]!r:.40}'
        content.say('size', f'{file}:', said, image=image)
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
        values = [float(text) for text in texts]
    except (TypeError, ValueError):
        values = [float('nan')]
    if not all(map(is_number, values)):
        return 'no box', f'has no bndbox of four numbers ({reprlib.repr(texts)})', True
    if not name or not name.strip():
        return 'annotation entry', 'has no name', True
    if item.find('difficult') is not None:
        try:
            int(item.findtext('difficult'))
        except ValueError:
            said = f'has difficult={item.findtext("difficult")!r:.40}, neither 0 nor 1'
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
    found = _place_fault((left, top, right, bottom), size) if size else None
    if found:
        said += f' in an image of {size[0]} x {size[1]}'
        if found == 'box outside the image':
            said += '; mmdet clips it to a box without area, for which the loss is infinite'
        return found, said, hurts and found == 'box outside the image'
    return None


def _place_fault(box: tuple, size: tuple) -> str | None:
    """The kind of fault of a box (left, top, right, bottom) where it is not within the image."""
    left, top, right, bottom = box
    width, height = size
    if left >= 0 and top >= 0 and right <= width and bottom <= height:
        return None
    if min(right, width) <= max(left, 0) or min(bottom, height) <= max(top, 0):
        return 'box outside the image'
    if left < -1 or top < -1 or right > width + 1 or bottom > height + 1:
        return 'box beyond the edge'
    return None  # by rounding


class Decoded(NamedTuple):
    """An image as mmdet decodes it, or why not.

    Attributes:
        fault: kind and what is said of it, or None.
        size: (width, height) as shown, after its EXIF orientation.
        stored: (width, height) as it lies in the file.
        mode: Pillow's name of its pixels ('RGB', 'L', 'CMYK', 'I;16').
        digest: SHA-1 of the file, or ''.
    """

    fault: tuple[str, str] | None
    size: tuple[int, int] = (0, 0)
    stored: tuple[int, int] = (0, 0)
    mode: str = ''
    digest: str = ''


def quick_fault(path: str) -> tuple[str, str] | None:
    """What the file system knows of an image that is not there, or holds nothing."""
    try:
        known = os.stat(path)
    except OSError:
        stem = os.path.splitext(path)[0]
        near = [stem + ending for ending in ENDINGS if os.path.isfile(stem + ending)]
        return 'image missing', f'missing, but {near[0]} is there' if near else 'missing'
    if not stat.S_ISREG(known.st_mode):
        return 'image missing', 'no file'
    return None if known.st_size else ('image empty', 'empty')


def pixel_notes(looks: Iterable[Decoded]) -> list[str]:
    """What mmdet handles of decoded images: pixels that are not RGB, images that it turns."""
    looks = list(looks)
    modes = Counter(look.mode for look in looks if look.mode not in ('', 'RGB'))
    notes = []
    if modes:
        said = ', '.join(f'{mode} {count:,}' for mode, count in modes.most_common())
        notes.append(
            f'{modes.total():,} images are not RGB ({said}); mmdet reads three channels of 8 bits'
        )
    if turned := sum(look.size != look.stored for look in looks):
        notes.append(f'{turned:,} images are turned by their EXIF orientation, as by mmdet')
    return notes


def quick_look(path: str) -> Decoded:
    """`decode` without opening the file."""
    return Decoded(quick_fault(path))


def decode(path: str) -> Decoded:
    """Decode one image; a truncated one is a fault here, where OpenCV may fill it with grey."""
    if fault := quick_fault(path):
        return Decoded(fault)
    try:
        data = Path(path).read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            size, stored = _turned(image)
            mode = image.mode
            image.load()
            if image.format not in LIKE_OPENCV:
                array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
                if array is None:
                    said = f'unreadable: OpenCV, with which mmdet reads, has no {image.format}'
                    return Decoded(('image unreadable', f'{said} of mode {mode}'))
                size = array.shape[1::-1]
    except Exception as error:  # Pillow's formats raise errors of any kind on broken files
        said = (str(error).splitlines() or [type(error).__name__])[0]
        return Decoded(('image unreadable', f'unreadable: {said}'))
    return Decoded(None, size, stored, mode, hashlib.sha1(data).hexdigest())


def _turned(image: Image.Image) -> tuple[tuple[int, int], tuple[int, int]]:
    """(width, height) as shown, and as stored."""
    orientation = image.getexif().get(EXIF_ORIENTATION)
    return (image.size[::-1] if orientation in (5, 6, 7, 8) else image.size), image.size


def decode_all(paths: Iterable[str], description: str, progress: bool = True) -> dict[str, Decoded]:
    """Decode images in parallel, each once, with a progress bar."""
    paths = list(dict.fromkeys(paths))
    with ThreadPoolExecutor() as pool:
        done = pool.map(decode, paths)
        if progress:
            done = track(done, description, total=len(paths), transient=True)
        return dict(zip(paths, done, strict=True))


def image_faults(content: Content, look: Callable[[str], Decoded]) -> Iterator[Fault]:
    """The faults of a set's images, of which `look` tells each one's."""
    for index, (path, size, _) in enumerate(content.images):
        if not path:
            continue  # no name: said already
        found = look(path)
        if found.fault:
            yield Fault(found.fault[0], path, f'({found.fault[1]})', image=index)
        elif size and found.size != (0, 0) and tuple(size) != tuple(found.size):
            stored = '' if found.size == found.stored else ' once turned by its EXIF orientation'
            said = f'is {found.size[0]} x {found.size[1]}{stored}, and annotated as '
            said += f'{size[0]} x {size[1]}'
            yield Fault('size differs', path, said, image=index)
