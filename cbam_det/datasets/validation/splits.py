"""The images that annotation files list: missing, damaged, repeated, in two splits.

The check before a run and that of a folder or a config (`check_data`) find the same faults by it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from .content import Content, unusable_reason
from .images import (
    Decoded,
    add_repeated_images,
    check_exists,
    compare_files,
    decode_all,
    image_faults,
)

CLEAN = '_clean'  # what the names of clean files end in


@dataclass
class Split:
    """One annotation file of a folder.

    Attributes:
        name: 'instances_train2017', 'VOC2007/trainval'.
        root: the folder of its images and annotations.
        images: where the images lie.
        content: what it lists, with the faults of its images.
        notes: what is no fault, and good to know.
        sub_data_root: `root` in the folder that was given, as `data_prefix.sub_data_root` names it
            in a config whose `data_root` is that folder; '' where both are one.
        annotations: VOC's folder of XMLs.
        places: the data sets of a config that read it, by their dotted paths; () of a folder.
        evaluators: those of a config that read the same file.
        annotated: its ground truth is needed.
        partial: a part of it is read, which one is not known here.
    """

    name: str
    root: Path
    images: Path
    content: Content
    notes: list[str] = field(default_factory=list)
    sub_data_root: str = ''
    annotations: Path = Path()
    places: tuple[str, ...] = ()
    evaluators: tuple[str, ...] = ()
    annotated: bool = True
    partial: bool = False

    @property
    def role(self) -> str | None:
        """'train', 'val' or 'test', by the config, or by its name or the folders of its file and
        its images.
        """
        if self.places:
            return self.places[0].partition('_')[0]
        folders = (self.content.file.parent, self.images)
        folder_names = [folder.name for folder in folders if folder != self.root]
        for name in (self.content.file.stem, *folder_names):
            if match := re.search('train|(?<![a-z])(val|test)', name.lower()):
                return match[0]
        return None

    @property
    def label(self) -> str:
        """What messages call it: the loader that reads it, or its name."""
        return self.places[0].partition('.')[0] if self.places else self.name

    @property
    def is_voc(self) -> bool:
        return self.content.is_voc


def decode_images(
    splits: list[Split], description: str, progress: bool = True
) -> dict[str, Decoded]:
    """Every image of splits, decoded, by its path; see `decode_all`."""
    paths = [image.path for split in splits for image in split.content.images if image.path]
    return decode_all(paths, description, progress)


def find_image_faults(
    splits: list[Split], decoded: Mapping[str, Decoded] | None = None, allow_shared: bool = False
) -> None:
    """Add the faults of the images of splits, and those that show where splits are compared.

    Args:
        decoded: every image, by its path. Without it images are not decoded, and are compared with
            the images of other splits alone, not with others of their own.
        allow_shared: an image in two splits does not hurt.
    """
    identities = []
    for split in splits:
        content = split.content
        hurts = any(fault.hurts for fault in content.faults)  # of which no object may be left
        if split.annotated and not hurts and (problem := unusable_reason(content)):
            content.add_fault('no objects', str(content.file), problem)
        if decoded is None:
            content.faults += image_faults(content, check_exists)
        else:
            content.faults += image_faults(content, decoded.__getitem__)
            identities.append(add_repeated_images(content, decoded))
    if decoded is None:
        paths = [[image.path for image in split.content.images if image.path] for split in splits]
        identities = compare_files(paths)
    for (split, own), (other, others) in combinations(zip(splits, identities, strict=True), 2):
        _compare(split, own, other, others, allow_shared)


def _compare(
    split: Split, own: dict[str, str], other: Split, others: dict[str, str], allow_shared: bool
) -> None:
    """Add the faults of images in two splits.

    Args:
        own, others: what tells the images of each from others, and their paths.
    """
    if not split.places and split.root == other.root and split.is_voc:
        stems = {split.content.file.stem, other.content.file.stem}
        if 'trainval' in stems and stems <= {'train', 'val', 'trainval'}:
            return  # VOC's trainval is both of them
    shared = sorted(own.keys() & others.keys())
    # Nothing leaks between a split and a part of it in a file of its own, nor where one set is
    # both the validation's and the test's.
    same_role = split.role is not None and split.role == other.role
    is_part = same_role and len(shared) in (len(own), len(others))
    evaluated = {split.role, other.role} <= {'val', 'test'}
    is_same_set = evaluated and len(own) == len(shared) == len(others)
    unknown = allow_shared or split.partial or other.partial
    for identity in shared:
        place = own[identity]
        path = '' if place == others[identity] else f'{others[identity]} of '
        split.content.add_fault(
            'same image in two splits',
            place,
            f'is {path or "in "}{other.label} too',
            hurts=not (is_part or is_same_set or unknown),
        )
