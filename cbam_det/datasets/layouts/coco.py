"""Read COCO folders: mmdet's, and exports of Roboflow, CVAT and Label Studio."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path, PurePosixPath

from ...utils.errors import InputError, first_few
from ..validation.coco import read_coco
from ..validation.folder import coco_among, coco_images
from ..validation.images import file_under_another_name, same_for_all_cases
from ..validation.splits import AnnotatedSplit
from .files import SPLITS, Files, best_of, shared_end, split_of


def coco_files_of(files: Files) -> list[Path]:
    """The COCO files of a data folder at any depth; see `coco_among`."""
    return coco_among(files.jsons)


def read_coco_folder(files: Files) -> list[AnnotatedSplit]:
    """The splits of a COCO folder, named 'train', 'val' or 'test', or 'all' if there is only one.

    Files of one split have the same name: such splits are joined. `trainval` is left out where
    there are `train` and `val`.

    Raises:
        InputError: a file is not a COCO file, one of its images can be several files, two files of
            a split list the same image, or only some of the files show their split.
    """
    splits = [_read(file, files) for file in coco_files_of(files)]
    parts = [split for split in splits if 'trainval' not in split.content.file.stem.lower()]
    if len(parts) < len(splits) and {'train', 'val'} <= {split.role for split in parts}:
        parts[0].notes.append('trainval is left out, as there are files of train and of val')
        splits = parts
    roles = {split.role for split in splits}
    for split in splits:
        if split.role is None and len(roles) > 1:
            raise InputError(
                f'{files.root} has {len(splits)} COCO files, but the name of {split.content.file} '
                'does not show its split; keep one file, or put train, val or test into the name '
                'of each'
            )
        split.name = 'all' if len(roles) == 1 else str(split.role)
    for name in dict.fromkeys(split.name for split in splits):
        _check_joinable([split for split in splits if split.name == name])
    return sorted(splits, key=lambda split: ('all', *SPLITS).index(split.name))


def _check_joinable(splits: list[AnnotatedSplit]) -> None:
    """Check that the files of a split list different images, and note that they are joined."""
    files: dict[str, Path] = {}
    for split in splits:
        file = split.content.file
        for path in {image.path for image in split.content.images if image.path}:
            if files.setdefault(os.path.normpath(path), file) != file:
                raise InputError(
                    f'{files[os.path.normpath(path)]} and {file} both list {path}; move one of '
                    'the two files out of the folder, or merge them so that each image has one '
                    'entry with all its boxes'
                )
    if len(splits) > 1:
        joined = first_few([str(split.content.file) for split in splits])
        splits[0].notes.append(f'{len(splits)} COCO files are joined: {joined}')


def _read(file: Path, files: Files) -> AnnotatedSplit:
    content = read_coco(file, '')
    names = [image.path for image in content.images]
    try:
        folder = coco_images(files.root, file, content, None)
    except InputError:
        folder = files.root  # below, images are searched by the last part of their names
    by_name: dict[str, list[Path]] = defaultdict(list)
    for image in files.images:
        by_name[same_for_all_cases(image.name)].append(image)
    listed = {os.path.normpath(os.path.join(str(folder), name)) for name in names if name}
    split = AnnotatedSplit(file.stem, files.root, folder, content)
    elsewhere: list[str] = []
    for index, name in enumerate(names):
        path = os.path.join(str(folder), name)
        if name and not file_under_another_name(path):
            meant = PurePosixPath(name.replace('\\', '/'))
            same_name = [  # without those that would be the images of two entries
                image
                for image in by_name[same_for_all_cases(meant.name)]
                if os.path.normpath(image) not in listed
            ]

            def nearness(image: Path, meant: PurePosixPath = meant) -> tuple[int, bool, bool]:
                same_split = split.role in SPLITS and split_of(image, files.root) == split.role
                return shared_end(image, meant), image.is_relative_to(file.parent), same_split

            found = best_of(same_name, nearness)
            if same_name and found is None:
                paths = first_few(list(map(str, same_name)))
                raise InputError(
                    f'{file}: the image {name} can be {paths}; write '
                    'their folders into file_name, or give each image its own name'
                )
            if found is not None:  # Label Studio's names start with folders of its server
                path = str(found)
                content.raw['images'][index]['file_name'] = os.path.relpath(path, folder)
                elsewhere.append(path)
        content.images[index] = content.images[index]._replace(path=name and path)
    if 0 < len(elsewhere) < len(names):  # it may be another image of the same name
        split.notes.append(
            f'{len(elsewhere):,} images of {file} are not in {folder}, but images with their '
            f'names are elsewhere: {first_few(elsewhere)}'
        )
    return split
