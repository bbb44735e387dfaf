"""Read a COCO file as mmdet 3.x does, and find every fault in it.

The check before a run (`dataset.py`) and the check of a folder (`folder.py`) use the same list of
faults. A fault is *harmful* if mmdet would stop on it, learn from it or compute a score from it.
mmdet silently ignores the others, for example COCO boxes without area; they are only counted.
`coco.py`, `voc.py`, `images.py` and `content.py` do not import mmdet.
"""

from __future__ import annotations

import codecs
import gc
import json
import os
import reprlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ...utils.errors import InputError
from .content import Content, ListedImage, as_id, box_fault, is_box, is_number

COCO_REMEDY = 'give a COCO detection file with images, annotations and categories'
# Faults of single boxes that appear when all boxes of a set are in another format.
OF_ALL_BOXES = ('box without area', 'box outside the image', 'box beyond the edge')
# Kinds of fault in which mmdet keeps the box.
KINDS_WITH_KEPT_BOX = ('box beyond the edge', 'annotation id 0')


def _is_text(value: object) -> bool:
    """Whether `value` is a name of one line that can be encoded: JSON allows lone surrogates."""
    if not isinstance(value, str) or value.splitlines() != [value]:
        return False  # the tables of the metrics fail on line breaks
    return value.encode('utf-8', 'replace').decode() == value


def _is_file_name(value: object) -> bool:
    try:
        return isinstance(value, str) and b'\0' not in os.fsencode(value) and value != ''
    except UnicodeEncodeError:
        return False


def _load_json(path: Path, annotated: bool) -> dict:
    try:
        content = json.loads(path.read_bytes().decode('utf-8-sig'))
    except UnicodeDecodeError as error:
        raise InputError(
            f'{path} is not valid UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8'
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f'{path} is not valid JSON ({error}); {COCO_REMEDY}') from None
    if isinstance(content, dict) and not annotated:
        content.setdefault('annotations', [])
    for key in ('images', 'annotations', 'categories'):
        items = content.get(key) if isinstance(content, dict) else None
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise InputError(f'{path} is not a COCO file: it lacks the list {key!r}; {COCO_REMEDY}')
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
        path: the JSON file.
        folder: the folder that its file names are relative to.
        classes: classes whose objects are counted for each image; None for all.
        annotated: False for a file without annotations, such as COCO's test-dev.
        needs_crowd: the file is for evaluation, which also reads `iscrowd`.

    Raises:
        InputError: the file is not a COCO file, or lists no images.
    """
    with _without_garbage_collector():
        content = list_coco(path, _load_json(path, annotated), folder, classes, needs_crowd)
    with path.open('rb') as stream:
        if stream.read(3) == codecs.BOM_UTF8:
            message = 'begins with a byte order mark, so mmdet cannot read it'
            content.add_fault('byte order mark', str(path), message)
    return content


@contextmanager
def _without_garbage_collector() -> Iterator[None]:
    """Disable the garbage collector, which would scan millions of new objects repeatedly."""
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
    """`read_coco` for a file that is loaded already.

    Args:
        raw: the JSON, with lists of dictionaries at images, annotations and categories.
    """
    content = Content(path, raw=raw)
    images, annotations = content.raw['images'], content.raw['annotations']
    names = _read_categories(content)
    sizes = read_images(content)
    needed = ['id', 'image_id', 'category_id', 'bbox', 'area']
    if needs_crowd:
        needed.append('iscrowd')
    objects: Counter[object] = Counter()
    earlier: set[object] = set()
    for index, item in enumerate(annotations):
        fault = _annotation_fault(item, sizes, names, needed, earlier)
        if fault:
            kind, message, is_harmful = fault
            content.add_fault(
                kind, f'{path}: annotations[{index}]', message, harmful=is_harmful, object=index
            )
        class_name = names.get(as_id(item.get('category_id')))
        if class_name is not None:
            content.classes[class_name] += 1
        if classes is None or class_name in classes:
            objects[as_id(item.get('image_id'))] += 1
            is_kept = fault is None or fault[0] in KINDS_WITH_KEPT_BOX
            content.usable += is_kept and not item.get('iscrowd') and not item.get('ignore')
    content.objects = len(annotations)
    _check_boxes_together(content, sizes)
    content.images = [
        ListedImage(
            os.path.join(folder, item['file_name']) if _is_file_name(item.get('file_name')) else '',
            sizes.get(as_id(item.get('id'))),
            objects[as_id(item.get('id'))],
        )
        for item in images
    ]
    return content


def _check_boxes_together(content: Content, sizes: dict[object, tuple[int, int] | None]) -> None:
    """Add the faults that all boxes together show: corners instead of sizes, values in 0..1."""
    content.ignore_few('box twice', content.objects)
    boxes = [
        (item['bbox'], size)
        for item in content.raw['annotations']
        if (size := sizes.get(as_id(item.get('image_id')))) and is_box(item.get('bbox'))
    ]
    are_relative = all(0 <= value <= 1 for box, _ in boxes for value in box)
    if are_relative and any(box[2] > 0 and box[3] > 0 for box, _ in boxes):
        message = (
            f'has {len(boxes)} boxes with all values from 0 to 1 ({boxes[0][0]}), not in pixels'
        )
        content.faults = [fault for fault in content.faults if fault.kind not in OF_ALL_BOXES]
        content.add_fault('boxes in 0..1', f'{content.file}:', message)
        return
    if not all(box[2] > box[0] and box[3] > box[1] for box, _ in boxes):
        return
    outside = [
        (box, size)
        for box, size in boxes
        if box_fault((box[0], box[1], box[0] + box[2], box[1] + box[3]), size)
    ]
    fit_as_corners = sum(box_fault(tuple(box), size) is None for box, size in outside)
    if len(outside) >= max(3, 0.1 * len(boxes)) and fit_as_corners > 0.9 * len(outside):
        message = (
            f'has {len(boxes)} boxes: {len(outside)} extend beyond their image as x, y, width, '
            f'height, but {fit_as_corners} of these fit it as x1, y1, x2, y2 ({outside[0][0]})'
        )
        content.add_fault('corners instead of sizes', f'{content.file}:', message)


def _read_categories(content: Content) -> dict[object, str]:
    """Category id -> name."""
    names: dict[object, str] = {}
    for index, item in enumerate(content.raw['categories']):
        message = next((f'lacks {key!r}' for key in ('id', 'name') if key not in item), None)
        if message is None and as_id(item['id']) is None:
            message = f'has id={reprlib.repr(item["id"])}, which is neither a number nor a string'
        if message is None and not _is_text(item['name']):
            message = f'has name={reprlib.repr(item["name"])}, which is not text of one line'
        if message is None and item['id'] in names:
            message = f'has id={reprlib.repr(item["id"])}, like an earlier category'
        if message is None and item['name'] in names.values():
            message = f'has name={item["name"]!r}, like an earlier category'
            place = f'{content.file}: categories[{index}]'
            content.add_fault('category name twice', place, message)
            names[item['id']] = item['name']
        elif message:
            content.add_fault('invalid category', f'{content.file}: categories[{index}]', message)
        else:
            names[item['id']] = item['name']
    content.classes.update(dict.fromkeys(names.values(), 0))
    return names


def read_images(content: Content) -> dict[object, tuple[int, int] | None]:
    """Image id -> (width, height), None if they are invalid. Faults are added to `content`."""
    sizes: dict[object, tuple[int, int] | None] = {}
    files: dict[str, int] = {}
    for index, item in enumerate(content.raw['images']):
        kind, message, first = 'invalid image entry', None, None
        missing_keys = [key for key in ('file_name', 'id', 'width', 'height') if key not in item]
        image_id = as_id(item.get('id'))
        if missing_keys:
            message = f'lacks {missing_keys[0]!r}'
        elif not _is_file_name(item['file_name']):
            message = f'has file_name={reprlib.repr(item["file_name"])}, which is not a file name'
        elif image_id is None:
            message = f'has id={reprlib.repr(item["id"])}, which is neither a number nor a string'
        elif image_id in sizes:
            kind = 'image id twice'
            message = f'has id={reprlib.repr(image_id)}, like an earlier image'
        elif (file := os.path.normpath(item['file_name'])) in files:
            kind, message = 'file listed twice', f'has file_name={file!r}, like an earlier image'
            first = files[file]
        else:
            files[file] = index
        size, (width, height) = None, (item.get('width'), item.get('height'))
        if is_number(width) and is_number(height) and min(width, height) > 0:
            size = width, height
        else:
            message = (
                message or f'has width={width!r:.40} and height={height!r:.40}, which is not a size'
            )
        if image_id is not None:
            sizes.setdefault(image_id, size)
        if message:
            place = f'{content.file}: images[{index}]'
            content.add_fault(kind, place, message, image=index, first=first)
    return sizes


def _annotation_fault(
    item: dict, sizes: dict, names: dict, needed: Iterable[str], earlier: set
) -> tuple[str, str, bool] | None:
    """The first fault of an annotation as (kind, message, harmful). Fast: COCO has a million."""
    for key in needed:
        if item.get(key) is None:
            return 'invalid annotation', f'lacks {key!r}', True
    box = item['bbox']
    if not is_box(box):
        message = f'has bbox={reprlib.repr(box)}, which is not four numbers x, y, width, height'
        return 'invalid box', message, True
    if not is_number(item['area']):
        return (
            'invalid annotation',
            f'has area={reprlib.repr(item["area"])}, which is not a number',
            True,
        )
    annotation_id = item['id']
    image_id, category_id = as_id(item['image_id']), as_id(item['category_id'])
    if item.get('iscrowd') not in (0, 1, None):
        message = f'has iscrowd={reprlib.repr(item["iscrowd"])}, which is neither 0 nor 1'
        return 'invalid annotation', message, True
    if image_id not in sizes:
        message = f'has image_id={reprlib.repr(item["image_id"])}, which the file does not list'
        return 'image not listed', message, True
    if category_id not in names:
        message = (
            f'has category_id={reprlib.repr(item["category_id"])}, which the file does not list'
        )
        return 'category not listed', message, True
    if as_id(annotation_id) is None:
        message = f'has id={reprlib.repr(annotation_id)}, which is neither a number nor a string'
        return 'invalid annotation', message, True
    if annotation_id in earlier:
        message = f'has id={reprlib.repr(annotation_id)}, like an earlier annotation'
        return 'annotation id twice', message, True
    earlier.add(annotation_id)
    left, top, width, height = box
    box_key = image_id, category_id, left, top, width, height
    if box_key in earlier:
        message = f'has the same class and box {box} as an earlier annotation of its image'
        return 'box twice', message, True
    earlier.add(box_key)
    if width < 1 or height < 1 or item['area'] <= 0:
        message = f'has bbox={box} and area={item["area"]}'
        return 'box without area', f'{message}: less than 1 pixel, so mmdet ignores it', False
    if size := sizes[image_id]:
        kind = box_fault((left, top, left + width, top + height), size)
        if kind:
            message = f'has bbox={box} in an image of {size[0]} x {size[1]}'
            message += ', so mmdet ignores it' if kind == 'box outside the image' else ''
            return kind, message, False
    if annotation_id == 0:
        message = 'has id=0: pycocotools without cbam_det counts detections of this object as wrong'
        return 'annotation id 0', message, False
    return None
