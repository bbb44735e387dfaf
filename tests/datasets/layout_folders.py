"""The embedded digits as annotation tools write them: the same images and boxes in each layout.

Names have blanks, non-ASCII letters and endings in upper case; some images are PNG files.
"""

from __future__ import annotations

import hashlib
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from cbam_det.datasets.layouts.sets import Sets

SPLITS = dict(train='train', val='valid', test='test')  # Roboflow's names
NAMES = ('{}_scene.jpg', 'scène {}.PNG', '数字 {}.JPG', 'a b.{}.jpeg')


class Item(NamedTuple):
    """An image, its split, name, size and objects: class number and (x, y, width, height)."""

    picture: Image.Image
    split: str
    name: str
    size: tuple[int, int]
    objects: list[tuple[int, tuple[int, int, int, int]]]


def items_of(digits: Path) -> tuple[list[Item], list[str]]:
    """The images of the set and its class names; the last three of train become the test split."""
    items: list[Item] = []
    for split in ('train', 'val'):
        content = json.loads((digits / f'annotations/instances_{split}2017.json').read_text())
        for number, image in enumerate(content['images']):
            objects = [
                (item['category_id'] - 1, tuple(item['bbox']))
                for item in content['annotations']
                if item['image_id'] == image['id']
            ]
            of_test = split == 'train' and number >= len(content['images']) - 3
            picture = Image.open(digits / f'{split}2017' / image['file_name']).convert('RGB')
            name = NAMES[len(items) % len(NAMES)].format(chr(97 + len(items)) + 'x')
            size = (image['width'], image['height'])
            items.append(Item(picture, 'test' if of_test else split, name, size, objects))
        classes = [category['name'] for category in content['categories']]
    return items, classes


def _save(item: Item, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    kind = 'PNG' if item.name.lower().endswith('png') else 'JPEG'
    options = {} if kind == 'PNG' else dict(quality=95)
    item.picture.save(folder / item.name, kind, **options)
    return folder / item.name


def _coco(items: list[Item], categories: list[dict], first: int, prefix: str = '') -> dict:
    """A COCO dictionary; `first` is the id of the first class."""
    images, annotations = [], []
    for number, item in enumerate(items):
        width, height = item.size
        image = dict(id=number, file_name=prefix + item.name, width=width, height=height)
        images.append(dict(image, license=1))
        for label, box in item.objects:
            annotations.append(
                dict(
                    id=len(annotations),
                    image_id=number,
                    category_id=first + label,
                    bbox=list(box),
                    area=box[2] * box[3],
                    segmentation=[],
                    iscrowd=0,
                )
            )
    return dict(images=images, annotations=annotations, categories=categories)


def roboflow_coco(root: Path, items: list[Item], classes: list[str]) -> None:
    """A folder for each split, and a first category without objects, named after the set."""
    categories = [dict(id=0, name='digits', supercategory='none')]
    categories += [
        dict(id=number, name=name, supercategory='digits') for number, name in enumerate(classes, 1)
    ]
    for split, folder in SPLITS.items():
        group = [item for item in items if item.split == split]
        for item in group:
            _save(item, root / folder)
        content = json.dumps(_coco(group, categories, 1))
        (root / folder / '_annotations.coco.json').write_text(content)
    (root / 'README.roboflow.txt').write_text('Digits\n')


def cvat_coco(root: Path, items: list[Item], classes: list[str]) -> None:
    for item in items:
        _save(item, root / 'images/default')
    categories = [dict(id=n, name=name, supercategory='') for n, name in enumerate(classes, 1)]
    (root / 'annotations').mkdir()
    content = json.dumps(_coco(items, categories, 1))
    (root / 'annotations/instances_default.json').write_text(content)


def label_studio_coco(root: Path, items: list[Item], classes: list[str]) -> None:
    """Ids start at 0, and file names start with folders of the server."""
    for item in items:
        _save(item, root / 'images')
    categories = [dict(id=number, name=name) for number, name in enumerate(classes)]
    content = _coco(items, categories, 0, '../../label-studio/data/media/upload/1/')
    (root / 'result.json').write_text(json.dumps(content))
    (root / 'notes.json').write_text(json.dumps(dict(categories=categories, info={})))


def _xml(item: Item, classes: list[str], shift: int = 1) -> str:
    root = ET.Element('annotation')
    ET.SubElement(root, 'filename').text = item.name
    size = ET.SubElement(root, 'size')
    for side, length in zip(('width', 'height'), item.size, strict=True):
        ET.SubElement(size, side).text = str(length)
    for label, (x, y, width, height) in item.objects:
        entry = ET.SubElement(root, 'object')
        ET.SubElement(entry, 'name').text = classes[label]
        box = ET.SubElement(entry, 'bndbox')
        corners = dict(xmin=x + shift, ymin=y + shift, xmax=x + width, ymax=y + height)
        for name, value in corners.items():
            ET.SubElement(box, name).text = str(value)
    return ET.tostring(root, encoding='unicode')


def labelimg_voc(root: Path, items: list[Item], classes: list[str]) -> None:
    """XMLs in a separate folder, without lists."""
    (root / 'labels').mkdir()
    for item in items:
        path = _save(item, root / 'pictures')
        (root / f'labels/{path.stem}.xml').write_text(_xml(item, classes), encoding='utf-8')


def roboflow_voc(root: Path, items: list[Item], classes: list[str]) -> None:
    """XMLs next to the images, in a folder for each split."""
    for item in items:
        path = _save(item, root / SPLITS[item.split])
        path.with_suffix('.xml').write_text(_xml(item, classes), encoding='utf-8')


def devkit(root: Path, items: list[Item], classes: list[str]) -> None:
    """VOC's folders, with images of any ending."""
    (root / 'VOC2007/Annotations').mkdir(parents=True)
    (root / 'VOC2007/ImageSets/Main').mkdir(parents=True)
    for item in items:
        path = _save(item, root / 'VOC2007/JPEGImages')
        xml = root / f'VOC2007/Annotations/{path.stem}.xml'
        xml.write_text(_xml(item, classes), encoding='utf-8')
    for split in SPLITS:
        stems = [f'{Path(item.name).stem}\n' for item in items if item.split == split]
        (root / f'VOC2007/ImageSets/Main/{split}.txt').write_text(''.join(stems))
        (root / f'VOC2007/ImageSets/Main/one_{split}.txt').write_text('of a class  1\n')


def cvat_voc(root: Path, items: list[Item], classes: list[str]) -> None:
    """One list, named after no split, boxes as edges from 0 with fractions, and other files."""
    for name in ('Annotations', 'ImageSets/Main', 'SegmentationClass'):
        (root / name).mkdir(parents=True)
    for item in items:
        path = _save(item, root / 'JPEGImages')
        text = re.sub(r'(?<=\d)(?=</[xy]m)', '.25', _xml(item, classes, shift=0))
        (root / f'Annotations/{path.stem}.xml').write_text(text, encoding='utf-8')
    stems = [f'{Path(item.name).stem}\n' for item in items]
    (root / 'ImageSets/Main/default.txt').write_text(''.join(stems))
    (root / 'labelmap.txt').write_text('# label:color_rgb:parts:actions\nbackground:0,0,0::\n')


def _yolo(item: Item) -> str:
    width, height = item.size
    return ''.join(
        f'{label} {(x + w / 2) / width:.6f} {(y + h / 2) / height:.6f} {w / width:.6f} '
        f'{h / height:.6f}\n'
        for label, (x, y, w, h) in item.objects
    )


def roboflow_yolo(root: Path, items: list[Item], classes: list[str]) -> None:
    for item in items:
        path = _save(item, root / SPLITS[item.split] / 'images')
        labels = root / SPLITS[item.split] / 'labels'
        labels.mkdir(exist_ok=True)
        (labels / f'{path.stem}.txt').write_text(_yolo(item))
    lines = [f'{split}: ../{folder}/images\n' for split, folder in SPLITS.items()]
    text = ''.join([*lines, f'nc: {len(classes)}\nnames: {classes}\n'])
    (root / 'data.yaml').write_text(text)


def cvat_yolo(root: Path, items: list[Item], classes: list[str]) -> None:
    for item in items:
        path = _save(item, root / 'obj_train_data')
        path.with_suffix('.txt').write_text(_yolo(item))
    (root / 'obj.names').write_text('\n'.join(classes))
    (root / 'obj.data').write_text(f'classes = {len(classes)}\nnames = data/obj.names\n')
    names = [f'data/obj_train_data/{item.name}\n' for item in items]
    (root / 'train.txt').write_text(''.join(names))


def ultralytics(root: Path, items: list[Item], classes: list[str]) -> None:
    """Folders by kind, and in them by split; the file of names tells a path of another machine."""
    for item in items:
        path = _save(item, root / 'images' / item.split)
        label = root / 'labels' / item.split / f'{path.stem}.txt'
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(_yolo(item))
    names = ''.join(f'  {number}: {name}\n' for number, name in enumerate(classes))
    paths = ''.join(f'{split}: images/{split}\n' for split in SPLITS)
    text = f'path: ../datasets/digits\n{paths}names:\n{names}download: none.zip\n'
    (root / 'digits.yaml').write_text(text)


def label_studio_yolo(root: Path, items: list[Item], classes: list[str]) -> None:
    for item in items:
        path = _save(item, root / 'images')
        (root / 'labels').mkdir(exist_ok=True)
        (root / f'labels/{path.stem}.txt').write_text(_yolo(item))
    (root / 'classes.txt').write_text('\n'.join(classes))
    (root / 'notes.json').write_text(json.dumps(dict(categories=[], info={})))


def labelimg_yolo(root: Path, items: list[Item], classes: list[str]) -> None:
    for item in items:
        path = _save(item, root)
        path.with_suffix('.txt').write_text(_yolo(item))
    (root / 'classes.txt').write_text('\n'.join(classes) + '\n')


Maker = Callable[[Path, list[Item], list[str]], None]
# Layout -> its name, and whether it has splits.
FOLDERS: dict[Maker, tuple[str, bool]] = {
    roboflow_coco: ('COCO', True),
    cvat_coco: ('COCO', False),
    label_studio_coco: ('COCO', False),
    labelimg_voc: ('VOC', False),
    roboflow_voc: ('VOC', True),
    devkit: ('VOC', True),
    cvat_voc: ('VOC', False),
    roboflow_yolo: ('YOLO', True),
    ultralytics: ('YOLO', True),
    cvat_yolo: ('YOLO', False),
    label_studio_yolo: ('YOLO', False),
    labelimg_yolo: ('YOLO', False),
}


def objects_read(sets: Sets, split: str) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    """The objects of each image, with boxes in whole pixels.

    The key of an image is a digest of its size and mean colour, which JPEG does not change.
    """
    content = sets.splits[split]
    read: dict[str, list] = {}
    for image in content['images']:
        key = _key(Image.open(sets.root / image['file_name']).convert('RGB'))
        read[key] = sorted(
            (sets.classes[item['category_id'] - 1], tuple(map(round, item['bbox'])))
            for item in content['annotations']
            if item['image_id'] == image['id']
        )
    return read


def objects_written(items: list[Item], classes: list[str]) -> dict[str, list]:
    return {
        _key(item.picture): sorted((classes[label], box) for label, box in item.objects)
        for item in items
    }


def _key(picture: Image.Image) -> str:
    means = np.asarray(picture, float).mean((0, 1)).round()
    return hashlib.sha1(f'{picture.size}{means}'.encode()).hexdigest()
