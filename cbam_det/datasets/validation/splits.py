"""Find the faults of the images of splits: missing, damaged, repeated, or in two splits.

Both the check before a run and `check_data` use it.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from .content import Content, unusable_reason
from .images import (
    Decoded,
    add_repeated_images,
    check_exists,
    check_header,
    compare_files,
    decode_all,
    image_faults,
)

# The check before a run opens at most this many images of a split, for their sizes and to find
# equal files: seconds on a local disk. More of them could delay the start of a run by many minutes
# on a network drive.
MOST_OPENED = 10_000
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
        stored: whether images are read as they are stored, without their EXIF orientation.
        opened: whether the run reads its images by OpenCV, as this check does. Other loaders may
            read files that OpenCV cannot, so only their existence is checked.
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
    stored: bool = False
    opened: bool = True

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
        """Whether it is a VOC list, not a COCO file."""
        return self.content.is_voc


def decode_images(
    splits: list[AnnotatedSplit], description: str, progress: bool = True
) -> dict[str, Decoded]:
    """Decode every image of the splits that are `opened`; returns all of them by path."""
    decoded = decode_all(_paths(splits, opened=True), description, progress)
    return {path: check_exists(path) for path in _paths(splits, opened=False)} | decoded


def _paths(splits: list[AnnotatedSplit], opened: bool) -> list[str]:
    chosen = [split for split in splits if split.opened == opened]
    return [image.path for split in chosen for image in split.content.images if image.path]


def find_image_faults(
    splits: list[AnnotatedSplit],
    decoded: Mapping[str, Decoded] | None = None,
    allow_shared: bool = False,
) -> None:
    """Add the faults of images to their splits, including images that are in two splits.

    Args:
        decoded: every image by its path. If None, only headers are read, of `MOST_OPENED` images
            of each split, and only smaller splits are searched for repeated images.
        allow_shared: an image in two splits is not harmful.
    """
    all_paths = [[image.path for image in split.content.images if image.path] for split in splits]
    if decoded is None:
        identities = compare_files(all_paths, MOST_OPENED)
    else:
        identities = [{path: decoded[path].digest for path in paths} for paths in all_paths]
    first_paths = []
    for split, paths, identity in zip(splits, all_paths, identities, strict=True):
        content = split.content
        # Harmful faults can be the reason that no object is usable, so only those are reported.
        has_harmful = any(fault.harmful for fault in content.faults)
        if split.annotated and not has_harmful and (problem := unusable_reason(content)):
            content.add_fault('no objects', str(content.file), problem)
        images = _read_headers(split, paths) if decoded is None else decoded
        content.faults += image_faults(content, images.__getitem__, split.stored)
        first_paths.append(add_repeated_images(content, identity))
    for (split, own), (other, others) in combinations(zip(splits, first_paths, strict=True), 2):
        _compare(split, own, other, others, allow_shared)


def _read_headers(split: AnnotatedSplit, paths: Sequence[str]) -> dict[str, Decoded]:
    """The images of a split as `check_header` and `check_exists` find them, by path."""
    if not split.opened:
        split.notes.append('images not checked, because the pipeline loads them in its own way')
        return {path: check_exists(path) for path in paths}
    step = math.ceil(len(paths) / MOST_OPENED) or 1
    if step > 1:
        split.notes.append(
            f'the size of only one in {step} of {len(paths):,} images was checked, and repeated '
            'images were not looked for; --check-images checks all'
        )
    sizes = {image.path: image.size for image in split.content.images}
    opened = set(paths[::step])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # Pillow's, about metadata and large images
        return {
            path: check_header(path, sizes[path]) if path in opened else check_exists(path)
            for path in paths
        }


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
    if not split.places and split.root == other.root:
        stems = {part.content.file.stem.removeprefix('instances_') for part in (split, other)}
        if 'trainval' in stems and stems <= {'train', 'val', 'trainval'}:
            return  # trainval is the union of both
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
