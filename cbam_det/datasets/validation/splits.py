"""Find the faults of the images of splits: missing, damaged, repeated, or in two splits.

Both the check before a run and `check_data` use it.
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

CLEAN = '_clean'  # suffix of the names of clean files


@dataclass
class AnnotatedSplit:
    """A split of a data set: its annotation file, its images and their faults.

    `utils.split_config.Split` is the config of a split; this is what its files contain.

    Attributes:
        name: for example 'instances_train2017' or 'VOC2007/trainval'.
        root: the folder of its images and annotations.
        images: the folder of its images.
        content: its annotations, with the faults of its images.
        notes: facts that are not faults.
        sub_data_root: the value of `data_prefix.sub_data_root` in a config whose `data_root` is the
            folder that was checked; '' if that is `root`.
        annotations: VOC's folder of XMLs.
        places: key paths of the config's data sets that read it; () if a folder was checked.
        evaluators: key paths of the config's evaluators that read the same file.
        annotated: whether its ground truth is needed.
        partial: whether only an unknown part of it is read.
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
        """'train', 'val' or 'test', from the config or else from the names of its file and folders;
        None if they do not show it.
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
        """Its name in messages: the dataloader that reads it, or else `name`."""
        return self.places[0].partition('.')[0] if self.places else self.name

    @property
    def is_voc(self) -> bool:
        return self.content.is_voc


def decode_images(
    splits: list[AnnotatedSplit], description: str, progress: bool = True
) -> dict[str, Decoded]:
    """Decode every image of the splits; returns them by path. See `decode_all`."""
    paths = [image.path for split in splits for image in split.content.images if image.path]
    return decode_all(paths, description, progress)


def find_image_faults(
    splits: list[AnnotatedSplit],
    decoded: Mapping[str, Decoded] | None = None,
    allow_shared: bool = False,
) -> None:
    """Add the faults of images to their splits, including images that are in two splits.

    Args:
        decoded: every image by its path. If None, images are not decoded, and are compared only
            with those of other splits, by their bytes.
        allow_shared: an image in two splits is not harmful.
    """
    identities = []
    for split in splits:
        content = split.content
        # Harmful faults can be the reason that no object is usable, so only those are reported.
        has_harmful = any(fault.harmful for fault in content.faults)
        if split.annotated and not has_harmful and (problem := unusable_reason(content)):
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
    split: AnnotatedSplit,
    own: dict[str, str],
    other: AnnotatedSplit,
    others: dict[str, str],
    allow_shared: bool,
) -> None:
    """Add the faults of images in two splits.

    Args:
        own, others: the images of each split, identity (digest or absolute path) -> path.
    """
    if not split.places and split.root == other.root and split.is_voc:
        stems = {split.content.file.stem, other.content.file.stem}
        if 'trainval' in stems and stems <= {'train', 'val', 'trainval'}:
            return  # VOC's trainval is the union of both
    shared = sorted(own.keys() & others.keys())
    # Harmless: one file lists a part of the same split, or one set is both validation and test set.
    same_role = split.role is not None and split.role == other.role
    is_part = same_role and len(shared) in (len(own), len(others))
    evaluated = {split.role, other.role} <= {'val', 'test'}
    is_same_set = evaluated and len(own) == len(shared) == len(others)
    unknown = allow_shared or split.partial or other.partial
    for identity in shared:
        place = own[identity]
        path = 'in ' if place == others[identity] else f'{others[identity]} of '
        split.content.add_fault(
            'same image in two splits',
            place,
            f'is also {path}{other.label}',
            harmful=not (is_part or is_same_set or unknown),
        )
