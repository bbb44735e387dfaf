"""Small COCO and VOC sets, and functions that damage their files and images."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.config import ConfigDict
from PIL import Image

CLASSES = ('cat', 'dog')
PACK = dict(type='PackDetInputs')
SIZE = (48, 40)  # width, height of every image
XML = """<annotation><size><width>48</width><height>40</height><depth>3</depth></size>
<object><name>cat</name><difficult>0</difficult>
<bndbox><xmin>5</xmin><ymin>6</ymin><xmax>25</xmax><ymax>30</ymax></bndbox></object>
<object><name>dog</name>
<bndbox><xmin>21</xmin><ymin>1</ymin><xmax>48</xmax><ymax>40</ymax></bndbox></object></annotation>
"""


def picture(path: Path, seed: int = 0, **options: object) -> None:
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 255, (*SIZE[::-1], 3), np.uint8)).save(path, **options)


def coco(root: Path) -> ConfigDict:
    """Write two images with two objects each; return a data set's config that reads them."""
    (root / 'train').mkdir()
    names = ('one.jpg', 'number two.jpg')
    for number, name in enumerate(names):
        picture(root / 'train' / name, number)
    images = [
        dict(id=number, file_name=name, width=SIZE[0], height=SIZE[1])
        for number, name in enumerate(names, 1)
    ]
    boxes = [[5, 6, 20, 24], [20, 0, 28, 40], [1.5, 2.5, 9, 9], [0, 0, 48, 40]]
    annotations = [
        dict(id=n + 1, image_id=1 + n // 2, category_id=1 + n % 2, bbox=box, area=9, iscrowd=0)
        for n, box in enumerate(boxes)
    ]
    categories = [dict(id=number, name=name) for number, name in enumerate(CLASSES, 1)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (root / 'train.json').write_text(json.dumps(content))
    return ConfigDict(
        type='CocoDataset',
        data_root=str(root),
        ann_file='train.json',
        data_prefix=dict(img='train/'),
        metainfo=dict(classes=CLASSES),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
    )


def voc(root: Path) -> ConfigDict:
    """Write similar data in VOC's layout, with the same XML for both images."""
    for folder in ('Annotations', 'JPEGImages'):
        (root / folder).mkdir()
    for number, name in enumerate(('one', 'number two')):
        picture(root / f'JPEGImages/{name}.jpg', number)
        (root / f'Annotations/{name}.xml').write_text(XML)
    (root / 'train.txt').write_text('one\nnumber two\n')
    return ConfigDict(
        type='XMLDataset',
        data_root=str(root),
        ann_file='train.txt',
        data_prefix=dict(sub_data_root=''),
        metainfo=dict(classes=CLASSES),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
    )


class Row(NamedTuple):
    """A kind of fault and its message.

    Attributes:
        make: damages the files in the folder.
        error: part of the error message, if the fault stops the run.
        note: part of the summary, if the fault is only counted. If both are None, there is no
            message, as mmdet handles such data.
        full: whether the fault is only found if images are decoded.
        config: other keys of the data set's config.
    """

    make: Callable[[Path], object] = lambda root: None
    error: str | None = None
    note: str | None = None
    full: bool = False
    config: dict = {}


def entry(section: str, index: int = 0, *without: str, **values: object) -> Callable[[Path], None]:
    """Change values of an entry in the COCO file, and remove the keys `without`."""

    def change(root: Path) -> None:
        content = json.loads((root / 'train.json').read_text())
        content[section][index].update(values)
        for key in without:
            del content[section][index][key]
        (root / 'train.json').write_text(json.dumps(content))

    return change


def every(section: str, **values: object) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        content = json.loads((root / 'train.json').read_text())
        content[section] = [dict(item, **values) for item in content[section]]
        (root / 'train.json').write_text(json.dumps(content))

    return change


def cut(section: str, keep: int) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        content = json.loads((root / 'train.json').read_text())
        content[section] = content[section][:keep]
        (root / 'train.json').write_text(json.dumps(content))

    return change


def text(content: bytes, name: str = 'train.json') -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(content)


def swap(old: str, new: str) -> Callable[[Path], None]:
    """Replace text in the first XML."""

    def change(root: Path) -> None:
        assert old in XML
        (root / 'Annotations/one.xml').write_text(XML.replace(old, new, 1))

    return change


def box(xmin: object, ymin: object, xmax: object, ymax: object) -> Callable[[Path], None]:
    """Replace the box of the first object in the first XML."""
    old = '<xmin>5</xmin><ymin>6</ymin><xmax>25</xmax><ymax>30</ymax>'
    new = f'<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>'
    return swap(old, new)


def image(mode: str = 'RGB', size: tuple = SIZE, suffix: str = 'JPEG', **options: object):
    """Replace the first image by another one under the same name."""

    def change(root: Path) -> None:
        types = {'I;16': '<u2', 'I;16B': '>u2'}
        shape = size[::-1] if mode in types else (*size[::-1], 3)
        changed = Image.fromarray(np.full(shape, 200, types.get(mode, np.uint8)))
        changed = changed if mode in types else changed.convert(mode)
        changed.save(root / 'train/one.jpg', suffix, **options)

    return change


def bomb(root: Path) -> None:
    """A PNG whose header claims 100,000 x 100,000 pixels."""
    head = b'IHDR' + struct.pack('>2I5B', 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = [head, b'IDAT' + zlib.compress(b'')]
    data = b''.join(
        struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk))
        for chunk in chunks
    )
    (root / 'train/one.jpg').write_bytes(b'\x89PNG\r\n\x1a\n' + data)


def shorten(root: Path) -> None:
    file = root / 'train/one.jpg'
    file.write_bytes(file.read_bytes()[:-200])


def sideways() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif
