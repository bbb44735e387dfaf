"""What an annotation file contains, and its faults with their remedies."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ...utils.errors import printable

LARGEST = 1e15  # larger numbers are not coordinates
FIX = '{fix}'  # in a remedy, replaced by the command that writes a clean file
# Left out of a remedy where a folder is checked, not a config.
ALLOW = ', or allow it in both: --cfg-options preflight.allow_shared_images=True'
FILE_REMEDY = f'correct the file, or leave this entry out with {FIX}'
IMAGE_REMEDY = f'restore it, or remove it from the annotations ({FIX})'
# The remedy of each kind of fault.
REMEDIES = {
    'invalid category': 'correct the file by hand: only you know which class is meant',
    'category name twice': f'list each class once ({FIX} merges classes of the same name)',
    'invalid image entry': FILE_REMEDY,
    'image id twice': f'give each image its own id, or leave such images out with {FIX}',
    'invalid annotation': f'correct the file, or fill in or leave out the entry with {FIX}',
    'invalid box': FILE_REMEDY,
    'annotation id twice': f'give each annotation its own id ({FIX})',
    'image not listed': FILE_REMEDY,
    'category not listed': FILE_REMEDY,
    'box without area': FILE_REMEDY,
    'box outside the image': FILE_REMEDY,
    'box beyond the edge': 'clip the box if this is more than rounding',
    'file listed twice': f'give each file one entry with all its boxes ({FIX} merges them)',
    'box twice': f'list it once ({FIX})',
    'corners instead of sizes': f'write x, y, width, height, not the two corners ({FIX} does)',
    'sizes instead of corners': f'write the two corners, not x, y, width, height ({FIX} does)',
    'boxes in 0..1': (
        'multiply them by the width and height of the image (if x, y are the centre, as in YOLO, '
        'also subtract half the width and height)'
    ),
    'no objects': 'annotate objects, or leave the file out: there is nothing to learn or to score',
    'annotation id 0': f'number annotations from 1 ({FIX} does)',
    'invalid list line': f'mmdet reads the whole line: write only the name ({FIX} does)',
    'image listed twice': f'list it once ({FIX} does)',
    'annotation missing': f'restore it, or remove it from the list ({FIX})',
    'invalid XML': f'restore it, or remove it from the list ({FIX})',
    'invalid size': f'write the width and height of the image in whole pixels ({FIX} does)',
    'image missing': IMAGE_REMEDY,
    'image under another name': (
        f"write the name of the existing file ({FIX} does); VOC's must be NAME.jpg: link it by "
        'that name'
    ),
    'image empty': IMAGE_REMEDY,
    'image unreadable': IMAGE_REMEDY,
    'same image in two splits': f'remove it from one of them{ALLOW}',
    'byte order mark': f'save it as UTF-8 without this mark ({FIX} does)',
    'same image twice': 'keep one of them',
    'count': 'download it again if it should be complete',
    'size differs': (
        'the boxes may be those of another, a resized or a turned image (mmdet applies an EXIF '
        f'orientation): correct them, or the size if they fit, or leave the image out ({FIX})'
    ),
}


# The remedies of harmful faults that differ: the config can filter boxes that mmdet does not ignore
# by itself.
REMEDIES_IF_HARMFUL = {
    'box without area': (
        f"ignore such boxes: the data set's filter_cfg=dict(bbox_min_size=1), or {FILE_REMEDY}"
    ),
    'box outside the image': (
        "drop such boxes: dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1)) after Resize in "
        f'the pipeline, or {FILE_REMEDY}'
    ),
    'same image twice': f'give each image one entry with all its boxes ({FIX} merges them)',
}
# Faults of a whole image that cannot be corrected: a clean file leaves the image out.
LEFT_OUT = (
    'image missing',
    'image empty',
    'image unreadable',
    'size differs',
    'annotation missing',
    'invalid XML',
)
# Faults that must be corrected by hand before a clean file can be written.
BY_HAND = ('boxes in 0..1', 'no objects', 'invalid category')
# A smaller share of repeated images or boxes does not change a score as printed.
FEW_DUPLICATES = 0.01


class Fault(NamedTuple):
    """One fault of a data set.

    Attributes:
        kind: key of `REMEDIES`.
        place: the file, and the position in it.
        message: what is wrong there.
        harmful: mmdet would stop on it, learn from it or compute a score from it.
        image: index in `Content.images`, or None.
        object: index in COCO's `annotations` or in the XML's objects, or None.
        first: index of the earlier image that this one repeats, or None.
    """

    kind: str
    place: str
    message: str
    harmful: bool = True
    image: int | None = None
    object: int | None = None
    first: int | None = None

    def __str__(self) -> str:
        return printable(f'{self.place} {self.message}')


def remedy_of(fault: Fault, fix: str = '--fix', of_config: bool = True) -> str:
    """How to correct a fault, in the files or in the config.

    Args:
        fix: the command that writes a clean file.
        of_config: the data of a config are checked, not a folder.
    """
    remedy = _remedy(fault).replace(FIX, fix)
    return remedy if of_config else remedy.removesuffix(ALLOW)


def fixable(fault: Fault) -> bool:
    """Whether `--fix` is a remedy."""
    return FIX in _remedy(fault)


def uncorrectable(content: Content) -> Fault | None:
    """The first fault that `--fix` refuses, as only the user knows what is meant; None without."""
    return next((fault for fault in content.faults if fault.kind in BY_HAND), None)


def _remedy(fault: Fault) -> str:
    return (fault.harmful and REMEDIES_IF_HARMFUL.get(fault.kind)) or REMEDIES[fault.kind]


class ListedImage(NamedTuple):
    """An image of a set: its file, its size (width, height) if known, and its number of objects."""

    path: str
    size: tuple[float, float] | None
    objects: int


@dataclass
class Content:
    """What one annotation file contains.

    Attributes:
        file: COCO's JSON, or VOC's image list.
        images: its images in the file's order; the path is '' if COCO's entry cannot be read.
        faults: all faults, in the file's order.
        classes: number of objects by class name; a COCO file also lists classes without objects.
        objects: number of annotations.
        usable: number of objects to learn from: valid, with area, neither crowd nor difficult.
        raw: COCO's JSON; {} for VOC.
        names: the image name of each line of VOC's list.
        voc_boxes: the classes and boxes of VOC's objects, by index of the image.
        has_sizes: whether its format has the sizes of the images.
    """

    file: Path
    images: list[ListedImage] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    classes: Counter[str] = field(default_factory=Counter)
    objects: int = 0
    usable: int = 0
    raw: dict = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    voc_boxes: dict[int, Counter[str]] = field(default_factory=dict)
    has_sizes: bool = True

    def add_fault(
        self,
        kind: str,
        place: str,
        message: str,
        *,
        harmful: bool = True,
        image: int | None = None,
        object: int | None = None,
        first: int | None = None,
    ) -> None:
        """Add a fault; see `Fault` for the arguments."""
        self.faults.append(Fault(kind, place, message, harmful, image, object, first))

    @property
    def is_voc(self) -> bool:
        """Whether this is a VOC list, not a COCO file."""
        return not self.raw

    def ignore_few(self, kind: str, total: int) -> None:
        """Mark faults of `kind` as harmless if they are few in `total`."""
        if sum(fault.kind == kind for fault in self.faults) < FEW_DUPLICATES * total:
            self.faults = [
                fault._replace(harmful=False) if fault.kind == kind else fault
                for fault in self.faults
            ]

    def unusable_images(self) -> set[int]:
        """Indices of the images that cannot be used."""
        return {
            fault.image
            for fault in self.faults
            if fault.image is not None
            and (fault.kind in LEFT_OUT or not self.images[fault.image].path)
        }

    def repeated_images(self) -> dict[int, int]:
        """Index of each harmfully repeated image -> index of the image that it repeats."""
        return {
            fault.image: fault.first
            for fault in self.faults
            if fault.image is not None and fault.first is not None and fault.harmful
        }


class Clean(NamedTuple):
    """The clean files of a split.

    Attributes:
        files: contents by path; empty if there is nothing to correct.
        options: keys of a config's data set, and their values.
        images: number of images that are left out.
        objects: number of boxes that are left out, including those of these images.
    """

    files: dict[Path, bytes]
    options: dict[str, str]
    images: int = 0
    objects: int = 0


def unusable_reason(content: Content) -> str | None:
    """Why there is nothing to learn from a set; None if there is something."""
    if not content.objects:
        return 'has no annotations'
    if not content.usable:
        return (
            f'has {content.objects} annotations, but all are crowd, difficult, ignored or without '
            'area'
        )
    return None


def is_number(value: object) -> bool:
    """Whether `value` is a finite number that can be a coordinate or an area."""
    return isinstance(value, (int, float)) and -LARGEST < value < LARGEST


def is_box(value: object) -> bool:
    """Whether `value` is four numbers, as in COCO's `bbox`."""
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def as_id(value: object) -> object:
    """`value` if it can be an id, else None."""
    return value if isinstance(value, (int, float, str)) and value == value else None


def box_fault(box: tuple, size: tuple) -> str | None:
    """The kind of fault of a box (left, top, right, bottom) that is not inside its image."""
    left, top, right, bottom = box
    width, height = size
    if left >= 0 and top >= 0 and right <= width and bottom <= height:
        return None
    if min(right, width) <= max(left, 0) or min(bottom, height) <= max(top, 0):
        return 'box outside the image'
    if left < -1 or top < -1 or right > width + 1 or bottom > height + 1:
        return 'box beyond the edge'
    return None  # only rounding
