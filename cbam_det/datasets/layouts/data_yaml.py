"""Read the `data.yaml` of a YOLO folder: class names, the images of each split, keypoints."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path, PurePosixPath

import yaml

from ...utils.errors import InputError, first_few
from ..validation.images import same_for_all_cases
from .files import IMAGE_FOLDERS, SPLITS, Files, lines_of


def data_yaml(files: Files) -> tuple[dict, Path | None]:
    """The content and path of the YAML file with `names`; {} and None if there is none."""
    with_names = []
    for path in files.yamls:
        if b'names' not in path.read_bytes():
            continue
        try:
            # By this loader the names `no` and `1` are texts, not False and a number.
            options = yaml.load(path.read_text(encoding='utf-8'), yaml.BaseLoader)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise InputError(f'{path} cannot be read as YAML ({error}); correct it') from None
        if isinstance(options, dict) and 'names' in options:
            with_names.append((options, path))
    if len(with_names) > 1:
        paths = first_few([str(path) for _, path in with_names])
        raise InputError(f'{files.root} has several files with class names ({paths}); keep one')
    return with_names[0] if with_names else ({}, None)


def keypoint_values(options: dict, file: Path | None) -> int:
    """The number of values of all keypoints of an object; 0 if the data have none."""
    shape = options.get('kpt_shape')
    if not isinstance(shape, list):
        return 0
    if not all(isinstance(number, str) and number.isdecimal() for number in shape):
        raise InputError(
            f'{file}: kpt_shape=[{", ".join(map(str, shape))}] has a value that is not a whole '
            'number; write it as kpt_shape: [17, 3]'
        )
    return math.prod(map(int, shape))


def entries_of(options: dict, split: str) -> list[str]:
    """The paths of a split in `data.yaml`, with slashes."""
    entries = options.get(split) or []
    entries = entries if isinstance(entries, list) else [entries]
    return [str(entry).replace('\\', '/') for entry in entries if entry not in ('', 'null', '~')]


def named_splits(options: dict, file: Path | None, files: Files) -> dict[str, list[Path]]:
    """The images of each split in `data.yaml`; without those that have none."""
    groups: dict[str, list[Path]] = {}
    base = str(options.get('path') or '')
    for split in SPLITS:
        entries = entries_of(options, split)
        found = [_images_at(entry, base, file, files) for entry in entries]
        if any(found):
            groups[split] = [*dict.fromkeys(image for images in found for image in images)]
            files.notes += [
                f'no image was found for {split}: {entry} of {file}'
                for entry, images in zip(entries, found, strict=True)
                if not images
            ]
    return groups


def _images_at(entry: str, base: str, file: Path | None, files: Files) -> list[Path]:
    """The images of an entry in `data.yaml`: a folder, or a text file with a list of images.

    Of a path outside the data, as those of another machine, the longest end that exists is taken.
    (Roboflow writes ../train/images but means train/images.)
    """
    assert file is not None
    folders = [file.parent / base, file.parent, files.root]
    names = [entry]
    if re.match(r'/|\.\./|[A-Za-z]:', entry):
        parts = PurePosixPath(entry).parts[1:]
        ends = ['/'.join(parts[index:]) for index in range(len(parts))]
        names += [end for end in ends if end.lower() not in IMAGE_FOLDERS]  # of any split
    for place in (_normal(folder / name) for name in names for folder in folders):
        if place.is_dir():
            images = [image for image in files.images if image.is_relative_to(place)]
        else:
            images = _listed(place, files) if place.is_file() else []
        if images:
            return images
    return []


def _listed(place: Path, files: Files) -> list[Path]:
    """The images of a list.

    If a path does not exist, as those of another machine, it is that of the image whose path from
    the folder of the list, or from the root, is its end.
    """
    by_end = {
        same_for_all_cases(image.relative_to(folder).as_posix()): image
        for folder in (files.root, place.parent)
        for image in files.images
        if image.is_relative_to(folder)
    }
    images, missing = set(files.images), []
    listed: set[Path] = set()
    for line in lines_of(place):
        path = _normal(place.parent / line.replace('\\', '/'))
        ends = ('/'.join(path.parts[index:]) for index in range(len(path.parts)))
        found = path if path in images else None
        found = found or next(filter(None, (by_end.get(same_for_all_cases(e)) for e in ends)), None)
        if found:
            listed.add(found)
        else:
            missing.append(line)
    if listed and missing:
        files.notes.append(
            f'{len(missing):,} lines of {place} name no image, and are left out: '
            f'{first_few(missing)}'
        )
    return [image for image in files.images if image in listed]


def _normal(path: Path) -> Path:
    return Path(os.path.normpath(path))
