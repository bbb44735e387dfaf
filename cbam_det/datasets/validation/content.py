"""What an annotation file lists, and the faults in it, each with its remedy."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ...utils.errors import printable

LARGEST = 1e15  # beyond it a float does not count single pixels


# Kinds of fault, and the remedy for each; `FIX` stands for the command that writes a clean file.
FIX = '{fix}'


FILE_REMEDY = f'mend the file, or leave it out by {FIX}'


IMAGE_REMEDY = f'restore it, or take it out of the annotations ({FIX})'


REMEDIES = {
    'category entry': 'mend the file',
    'category name twice': f'list each class once ({FIX} joins those of one name)',
    'image entry': FILE_REMEDY,
    'image id twice': f'give each image an id of its own, or leave it out by {FIX}',
    'annotation entry': f'mend the file, or have it filled in or left out by {FIX}',
    'no box': FILE_REMEDY,
    'annotation id twice': f'give each annotation an id of its own ({FIX})',
    'image not listed': FILE_REMEDY,
    'category not listed': FILE_REMEDY,
    'box without area': FILE_REMEDY,
    'box outside the image': FILE_REMEDY,
    'box beyond the edge': 'clip it, where it is more than rounding',
    'file listed twice': f'give each file one entry, with all its boxes ({FIX} joins them)',
    'box twice': f'list it once ({FIX})',
    'corners for sizes': f'write x, y, width, height, not both corners ({FIX} does)',
    'sizes for corners': f'write both corners, not x, y, width, height ({FIX} does)',
    'boxes in 0..1': (
        'multiply them by the width and the height of the image (and where x, y are the centre, as '
        "YOLO's are, take half the width and height away)"
    ),
    'no objects': 'annotate objects, or leave the file out: there is nothing to learn or to score',
    'annotation id 0': f'count annotation ids from 1 ({FIX})',
    'list line': f'mmdet reads the whole line: write the name alone ({FIX} does)',
    'image listed twice': f'list it once ({FIX} does)',
    'annotation missing': f'restore it, or take it off the list ({FIX})',
    'no XML': f'restore it, or take it off the list ({FIX})',
    'size': f'write the width and the height of the image, in whole pixels ({FIX})',
    'image missing': IMAGE_REMEDY,
    'image under another name': (
        f"write the name that is there ({FIX} does); VOC's are NAME.jpg: link it by that name"
    ),
    'image empty': IMAGE_REMEDY,
    'image unreadable': IMAGE_REMEDY,
    'same image in two splits': (
        'take it out of one of them, or let a run have it in both: --cfg-options '
        'preflight.allow_shared_images=True'
    ),
    'same image twice': 'keep one of them',
    'count': 'fetch it again, where it should be whole',
    'size differs': (
        'the boxes may belong to another image: annotate it as it is shown, or take its EXIF '
        'orientation away, which mmdet follows'
    ),
}


# Where such a fault hurts: what the config can do about boxes that mmdet does not pass over by
# itself, and what many copies of images call for.
HURTING_REMEDIES = {
    'box without area': (
        f"pass such boxes over: the data set's filter_cfg=dict(bbox_min_size=1), or {FILE_REMEDY}"
    ),
    'box outside the image': (
        "drop such boxes: dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1)) after Resize in "
        f'the pipeline, or {FILE_REMEDY}'
    ),
    'same image twice': f'give each picture one entry, with all its boxes ({FIX} joins them)',
}
# Faults of a whole image, which a clean file leaves out where they cannot be corrected.
LEFT_OUT = (
    'image missing',
    'image empty',
    'image unreadable',
    'size differs',
    'annotation missing',
    'no XML',
)
# Copies of fewer than this part of a set change no score that is printed; COCO may have some.
FEW_DUPLICATES = 0.01


class Fault(NamedTuple):
    """One fault.

    Attributes:
        kind: key of `REMEDIES`.
        place: file, and what in it.
        message: what is wrong there.
        hurts: mmdet would stop on it, learn from it or score by it.
        image: index in `Content.images`, or None.
        object: index in COCO's `annotations` or among the XML's objects, or None.
        first: index of the image that this one repeats, or None.
    """

    kind: str
    place: str
    message: str
    hurts: bool = True
    image: int | None = None
    object: int | None = None
    first: int | None = None

    def __str__(self) -> str:
        return printable(f'{self.place} {self.message}')


def remedy_of(fault: Fault, fix: str = '--fix') -> str:
    """What corrects a fault, in the files or in the config.

    Args:
        fix: the command that writes a clean file.
    """
    return _remedy(fault).replace(FIX, fix)


def fixable(fault: Fault) -> bool:
    """Whether `--fix` is a remedy."""
    return FIX in _remedy(fault)


def _remedy(fault: Fault) -> str:
    return (fault.hurts and HURTING_REMEDIES.get(fault.kind)) or REMEDIES[fault.kind]


class ListedImage(NamedTuple):
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
        raw: COCO's JSON.
        names: the image that each line of VOC's list means.
    """

    file: Path
    images: list[ListedImage] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    classes: Counter[str] = field(default_factory=Counter)
    objects: int = 0
    usable: int = 0
    raw: dict = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def add_fault(
        self,
        kind: str,
        place: str,
        message: str,
        *,
        hurts: bool = True,
        image: int | None = None,
        object: int | None = None,
        first: int | None = None,
    ) -> None:
        """Add a fault of `kind` at `place`, which is within the file; see `Fault`."""
        self.faults.append(Fault(kind, place, message, hurts, image, object, first))

    @property
    def is_voc(self) -> bool:
        """Whether it is a list of VOC's, and no COCO file."""
        return not self.raw

    def ignore_few(self, kind: str, total: int) -> None:
        """Let faults of `kind` not hurt where they are few among `total`."""
        if sum(fault.kind == kind for fault in self.faults) < FEW_DUPLICATES * total:
            self.faults = [
                fault._replace(hurts=False) if fault.kind == kind else fault
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
        """Index of each image that repeats another -> index of that one, where that hurts."""
        return {
            fault.image: fault.first
            for fault in self.faults
            if fault.image is not None and fault.first is not None and fault.hurts
        }


class Clean(NamedTuple):
    """What stands beside a split without what hurts.

    Attributes:
        files: contents by path, empty where nothing hurts.
        options: keys of a config's data set and their values.
        images: how many are left out.
        objects: how many boxes are left out, with those of such images.
    """

    files: dict[Path, bytes]
    options: dict[str, str]
    images: int = 0
    objects: int = 0


def unusable_reason(content: Content) -> str | None:
    """What is said of a set in which there is nothing to learn; None where there is."""
    if not content.objects:
        return 'has no annotations'
    if not content.usable:
        return (
            f'has {content.objects} annotations, but all are crowd, difficult, ignored or without '
            'area'
        )
    return None


def is_number(value: object) -> bool:
    """A finite number that a coordinate or an area can be."""
    return isinstance(value, (int, float)) and -LARGEST < value < LARGEST


def is_box(value: object) -> bool:
    """Four numbers, as COCO's `bbox` has."""
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def as_id(value: object) -> object:
    """An id, if it can be one; else None, which no item has."""
    return value if isinstance(value, (int, float, str)) and value == value else None


def box_fault(box: tuple, size: tuple) -> str | None:
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
