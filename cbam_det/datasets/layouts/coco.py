"""Read COCO folders: mmdet's, and exports of Roboflow, CVAT and Label Studio."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path, PurePosixPath

from ...utils.errors import InputError, first_few
from ..validation.coco import read_coco
from ..validation.folder import coco_images
from ..validation.images import file_under_another_name, same_for_all_cases
from ..validation.splits import CLEAN, AnnotatedSplit
from .files import SPLITS, Files, best_of, shared_end, split_of


def coco_files_of(files: Files) -> list[Path]:
    """The COCO files of a data folder at any depth: `instances_*` if there are such, else all.

    COCO files are recognized by their text among other JSONs, such as Label Studio's notes.json, so
    that damaged ones are found and reported.
    """
    found = [file for file in files.jsons if not file.stem.endswith(CLEAN) and _is_coco(file)]
    return [file for file in found if file.stem.startswith('instances_')] or found


def _is_coco(file: Path) -> bool:
    text = file.read_bytes()
    return b'"images"' in text and b'"annot' in text


def read_coco_folder(files: Files) -> list[AnnotatedSplit]:
    """The splits of a COCO folder, named 'train', 'val' or 'test', or 'all' if there is only one.

    Raises:
        InputError: a file is not a COCO file, one of its images can be several files, two files
            belong to the same split, or one of several files does not show its split.
    """
    splits = [_read(file, files) for file in coco_files_of(files)]
    if len(splits) == 1:
        splits[0].name = 'all'
        return splits
    for split in splits:
        same = [str(other.content.file) for other in splits if other.role == split.role]
        if split.role is None:
            raise InputError(
                f'{files.root} has {len(splits)} COCO files, but the name of {same[0]} does not '
                'show its split; keep one file, or put train, val or test into the name of each'
            )
        if len(same) > 1:
            raise InputError(
                f'{files.root} has {len(same)} COCO files of the split {split.role} '
                f'({first_few(same)}); keep one of them'
            )
    for split in splits:
        split.name = str(split.role)
    return sorted(splits, key=lambda split: SPLITS.index(split.name))


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
    split = AnnotatedSplit(file.stem, files.root, folder, content)
    elsewhere: list[str] = []
    for index, name in enumerate(names):
        path = os.path.join(str(folder), name)
        if name and not file_under_another_name(path):
            meant = PurePosixPath(name.replace('\\', '/'))
            same_name = by_name[same_for_all_cases(meant.name)]

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
