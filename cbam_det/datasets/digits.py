"""The embedded data set: handwritten digits in photographs, for runs without a download.

scikit-learn ships 1,797 scanned digits (8x8, UCI Optical Recognition of Handwritten Digits) and
two photographs (427x640). A scene is a crop of a photograph with clutter, and 1 to 6 digits of 12
to 96 pixels: rotated, coloured, faded and partly covered. Train and val share neither digits nor
parts of the photographs. The same scenes are written in two layouts:

    ROOT/annotations/instances_{train,val}2017.json   COCO, boxes [x, y, width, height]
    ROOT/{train,val}2017/000000000001.jpg
    ROOT/VOCdevkit/VOC2007/{Annotations,ImageSets/Main,JPEGImages}   boxes 1-based, inclusive
    ROOT/digits.json                                  the options of the set

In VOC's lists, train and trainval are the train scenes, val and test the val scenes.
"""

from __future__ import annotations

import json
import os
import shutil
import xml.etree.ElementTree as ET
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from rich.progress import track
from sklearn.datasets import load_digits, load_sample_images

from ..utils.errors import InputError

CLASSES = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
SPLITS = ('train', 'val')
SMALLEST, LARGEST = 12, 96  # pixels, the longer side of a digit's box
MARKER = 'digits.json'


@dataclass(frozen=True)
class Digits:
    """The options of the set. With one version of Pillow, they determine every byte of it.

    Attributes:
        train, val: number of images of each split, at least 1.
        size: side of the square images in pixels, at least 64.
        seed: an integer, at least 0.
    """

    train: int = 1000
    val: int = 200
    size: int = 192
    seed: int = 0

    def __post_init__(self) -> None:
        for name, lowest in (('train', 1), ('val', 1), ('size', 64), ('seed', 0)):
            if getattr(self, name) < lowest:
                raise InputError(f'{name}={getattr(self, name)} is too small; use {lowest} or more')


@dataclass(frozen=True)
class Scene:
    """One image, (size, size, 3) uint8 RGB, and its objects: label and (x, y, width, height)."""

    image: np.ndarray
    labels: list[int]
    boxes: list[tuple[int, int, int, int]]


class Painter:
    """Paints the scenes of one split from its own digits and its own part of the photographs."""

    def __init__(self, spec: Digits, split: str) -> None:
        self.spec, self.split = spec, split
        digits = load_digits()
        order = np.random.default_rng(spec.seed).permutation(len(digits.images))
        digit_ids = order[len(order) // 5 :] if split == 'train' else order[: len(order) // 5]
        self.digit_ids = digit_ids
        self.digits = digits.images[digit_ids] / 16.0
        self.labels = digits.target[digit_ids]
        columns = slice(0, 420) if split == 'train' else slice(420, 640)
        self.photos = [photo[:, columns] for photo in load_sample_images().images]

    def scene(self, index: int) -> Scene:
        """The scene of an index; it does not depend on the scenes painted before."""
        rng = np.random.default_rng([self.spec.seed, SPLITS.index(self.split), index])
        image = self._background(rng)
        self._clutter(rng, image)
        labels: list[int] = []
        boxes: list[tuple[int, int, int, int]] = []
        count = int(rng.integers(1, 7))
        for _ in range(8 * count):
            if len(boxes) == count:
                break
            choice = int(rng.integers(len(self.digits)))
            ink = self._ink(rng, self.digits[choice])
            height, width = ink.shape
            x = int(rng.integers(0, self.spec.size - width + 1))
            y = int(rng.integers(0, self.spec.size - height + 1))
            box = (x, y, width, height)
            if any(_overlap_share(placed, box) > 0.25 for placed in boxes):
                continue
            self._paint(rng, image, ink, box)
            labels.append(int(self.labels[choice]))
            boxes.append(box)
        return Scene(self._exposure(rng, image), labels, boxes)

    def _background(self, rng: np.random.Generator) -> np.ndarray:
        photo = self.photos[rng.integers(len(self.photos))]
        side = int(rng.integers(96, min(photo.shape[:2]) + 1))
        top = int(rng.integers(0, photo.shape[0] - side + 1))
        left = int(rng.integers(0, photo.shape[1] - side + 1))
        piece = Image.fromarray(photo[top : top + side, left : left + side])
        piece = piece.resize((self.spec.size,) * 2, Image.Resampling.BICUBIC)
        image = np.asarray(piece, dtype=np.float32)
        return image[:, :: int(rng.choice([-1, 1]))].copy()

    def _clutter(self, rng: np.random.Generator, image: np.ndarray) -> None:
        """Draw lines, ovals and unreadable pieces of digits, which are not objects."""
        canvas = Image.fromarray(image.astype(np.uint8))
        draw = ImageDraw.Draw(canvas)
        for _ in range(int(rng.integers(0, 5))):
            start, end = rng.integers(0, self.spec.size, (2, 2))
            colour = tuple(int(value) for value in rng.integers(0, 256, 3))
            corners = [*map(int, np.minimum(start, end)), *map(int, np.maximum(start, end) + 1)]
            if rng.random() < 0.5:
                draw.line([*map(int, start), *map(int, end)], colour, int(rng.integers(1, 5)))
            else:
                draw.ellipse(corners, outline=colour, width=int(rng.integers(1, 5)))
        image[:] = np.asarray(canvas, dtype=np.float32)
        for _ in range(int(rng.integers(0, 3))):
            ink = self._ink(rng, self.digits[rng.integers(len(self.digits))])
            ink = ink[: max(2, ink.shape[0] // 3)]
            x = int(rng.integers(0, self.spec.size - ink.shape[1] + 1))
            y = int(rng.integers(0, self.spec.size - ink.shape[0] + 1))
            self._blend(rng, image, ink, (x, y, ink.shape[1], ink.shape[0]))

    def _ink(self, rng: np.random.Generator, digit: np.ndarray) -> np.ndarray:
        """The opacity of a digit in 0..1, rotated, scaled and cropped to its visible pixels."""
        # Log-uniform sizes give equally many small, medium and large objects.
        largest = min(LARGEST, self.spec.size // 2)
        side = int(np.exp(rng.uniform(np.log(SMALLEST), np.log(largest + 1))))
        large = Image.fromarray(np.pad(digit, 2).astype(np.float32))
        large = large.resize((144, 144), Image.Resampling.BICUBIC)
        large = large.rotate(float(rng.uniform(-15, 15)), Image.Resampling.BICUBIC)
        crop = _crop_to_visible(np.asarray(large))
        scale = side / max(crop.shape)
        shape = [max(3, round(length * scale)) for length in crop.shape]
        small = Image.fromarray(crop).resize(shape[::-1], Image.Resampling.BOX)
        return np.clip(_crop_to_visible(np.asarray(small)) * 1.3, 0, 1)

    def _paint(
        self,
        rng: np.random.Generator,
        image: np.ndarray,
        ink: np.ndarray,
        box: tuple[int, int, int, int],
    ) -> None:
        x, y, width, height = box
        patch = image[y : y + height, x : x + width]
        background = patch.copy()
        self._blend(rng, image, ink, box)
        if min(width, height) >= 10 and rng.random() < 0.2:  # a bar in front of the digit
            thickness = max(1, width // 5)
            # Never in the middle, where it would cover a one completely.
            position = int(rng.choice([0, 1, 3, 4])) * thickness
            bar = slice(position, position + thickness)
            patch[:, bar] = background[:, bar].mean((0, 1))

    def _blend(
        self,
        rng: np.random.Generator,
        image: np.ndarray,
        ink: np.ndarray,
        box: tuple[int, int, int, int],
    ) -> None:
        x, y, width, height = box
        patch = image[y : y + height, x : x + width]
        background = patch.mean((0, 1))
        colour = rng.uniform(0, 255, 3)
        if abs(colour.mean() - background.mean()) < 70:  # too little contrast to read
            colour = colour * 0.3 if background.mean() > 127 else 255 - (255 - colour) * 0.3
        alpha = (ink * rng.uniform(0.65, 1.0))[:, :, None]
        patch[:] = patch * (1 - alpha) + colour * alpha

    def _exposure(self, rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
        middle = image.mean()
        image = middle + (image - middle) * rng.uniform(0.6, 1.2) + rng.uniform(-20, 20)
        image = image + rng.normal(0, rng.uniform(0, 6), image.shape)
        if rng.random() < 0.1:
            image = np.repeat(image.mean(2, keepdims=True), 3, 2)
        return np.clip(image, 0, 255).astype(np.uint8)


def make(root: str | os.PathLike, spec: Digits = Digits()) -> bool:
    """Write the set to the folder `root`, completely or not at all, with a progress bar.

    Args:
        root: a folder that does not exist, is empty, or already has this set.
        spec: the options of the set.

    Returns:
        True if the set was written, False if it existed already.

    Raises:
        InputError: `root` has other content.
    """
    root = Path(root).resolve()  # a link stays, and its target is written
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        existing = _existing_options(root)
        if existing == asdict(spec):
            return False
        remedy = 'give another folder (runs read it with --data-root), or remove this one'
        if existing is None:
            raise InputError(f'{root} contains files other than the digits; {remedy}')
        requested = asdict(spec).items()
        differing = [(name, value) for name, value in requested if existing.get(name) != value]
        actual = ', '.join(f'{name}={existing.get(name)}' for name, _ in differing)
        wanted = ', '.join(f'{name}={value}' for name, value in differing)
        raise InputError(f'{root} has digits with {actual}, not with {wanted}; {remedy}')
    if os.path.ismount(root):
        raise InputError(
            f'{root} is a mount point, which cannot be replaced; give {root / "digits"}'
        )
    # An interrupted call leaves only this folder, which the next call removes.
    partial = root.with_name(f'.{root.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise InputError(
            f'cannot create the folder {partial} ({error}); give another folder'
        ) from None
    try:
        for split in SPLITS:
            _write_split(partial, spec, split)
        (partial / MARKER).write_text(json.dumps(asdict(spec)), encoding='utf-8')
        os.replace(partial, root)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return True


def _existing_options(root: Path) -> dict | None:
    """The options of the set in a folder; None if the folder has other content."""
    try:
        options = json.loads((root / MARKER).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None
    return options if isinstance(options, dict) else None


def _write_split(root: Path, spec: Digits, split: str) -> None:
    painter = Painter(spec, split)
    voc = root / 'VOCdevkit' / 'VOC2007'
    folders = (
        root / 'annotations',
        root / f'{split}2017',
        voc / 'Annotations',
        voc / 'ImageSets' / 'Main',
        voc / 'JPEGImages',
    )
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    # One numbering for both splits, since VOC keeps all images in one folder.
    first_number = 1 if split == 'train' else spec.train + 1
    count = getattr(spec, split)
    for index in track(range(count), f'painting {count} {split} images'):
        number, scene = first_number + index, painter.scene(index)
        file = root / f'{split}2017' / f'{number:012d}.jpg'
        Image.fromarray(scene.image).save(file, quality=95)
        _link_or_copy(file, voc / 'JPEGImages' / file.name)
        (voc / 'Annotations' / f'{file.stem}.xml').write_text(
            _voc_xml(file.name, spec.size, scene), encoding='utf-8'
        )
        images.append(dict(id=number, file_name=file.name, width=spec.size, height=spec.size))
        annotations += [
            dict(
                id=len(annotations) + offset,
                image_id=number,
                category_id=label + 1,
                bbox=list(box),
                area=box[2] * box[3],
                iscrowd=0,
            )
            for offset, (label, box) in enumerate(zip(scene.labels, scene.boxes, strict=True), 1)
        ]
    content = dict(
        images=images,
        annotations=annotations,
        categories=[dict(id=label + 1, name=name) for label, name in enumerate(CLASSES)],
    )
    target = root / 'annotations' / f'instances_{split}2017.json'
    target.write_text(json.dumps(content), encoding='utf-8')
    names = ''.join(f'{Path(image["file_name"]).stem}\n' for image in images)
    for name in ('train', 'trainval') if split == 'train' else ('val', 'test'):
        (voc / 'ImageSets' / 'Main' / f'{name}.txt').write_text(names, encoding='utf-8')


def _link_or_copy(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, target)


def _voc_xml(file: str, size: int, scene: Scene) -> str:
    root = ET.Element('annotation')

    def add(parent: ET.Element, **values: object) -> None:
        for name, value in values.items():
            ET.SubElement(parent, name).text = str(value)

    add(root, folder='VOC2007', filename=file)
    add(ET.SubElement(root, 'size'), width=size, height=size, depth=3)
    add(root, segmented=0)
    for label, (x, y, width, height) in zip(scene.labels, scene.boxes, strict=True):
        item = ET.SubElement(root, 'object')
        add(item, name=CLASSES[label], pose='Unspecified', truncated=0, difficult=0)
        add(ET.SubElement(item, 'bndbox'), xmin=x + 1, ymin=y + 1, xmax=x + width, ymax=y + height)
    ET.indent(root)
    return ET.tostring(root, encoding='unicode')


def _crop_to_visible(ink: np.ndarray) -> np.ndarray:
    """`ink` cropped to the pixels above a quarter of full opacity."""
    mask = ink > 0.25
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return ink
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _overlap_share(box: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """The overlap of two boxes, relative to the smaller box."""
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    overlap = max(0, width) * max(0, height)
    return overlap / min(box[2] * box[3], other[2] * other[3])
