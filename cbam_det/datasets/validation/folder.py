"""Find the annotation files of a COCO or VOC folder, and their images."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from ...utils.errors import InputError, first_few
from ..layouts.files import is_shown, walk_files
from .coco import read_coco
from .content import Content
from .examination import examine_splits
from .images import file_under_another_name
from .splits import CLEAN, AnnotatedSplit
from .unknown_layout import unknown_layout
from .voc import check_folder, read_voc


def examine(
    folder: Path, images: Path | None = None, progress: bool = True
) -> list[AnnotatedSplit]:
    """Check a COCO or VOC folder: decode every image, check every box, compare the splits.

    Args:
        folder: a COCO folder (`annotations/*.json`, or JSONs in the folder or in its subfolders), a
            VOC folder (`ImageSets`, `Annotations`, `JPEGImages`), or a folder of VOC folders; or a
            COCO file, which is then checked alone.
        images: the folder of COCO's images, if its name does not follow from the JSON's name.
        progress: show a progress bar.

    Raises:
        InputError: there is no such data, or an annotation file cannot be read.
    """
    return examine_splits(find_splits(folder, images), f'decoding the images of {folder}', progress)


def find_splits(folder: Path, images: Path | None = None) -> list[AnnotatedSplit]:
    """Read the annotation files of a folder; see `examine`."""
    files: list[Path] = []
    if folder.suffix.lower() == '.json' and folder.is_file():
        files = [folder]
        folder = folder.parent.parent if folder.parent.name == 'annotations' else folder.parent
    if not folder.is_dir():
        kind = 'annotation file' if folder.suffix == '.json' else 'data folder'
        raise InputError(
            f"no {kind} {folder}; give a folder in COCO's or VOC's layout, or a COCO file"
        )
    subfolders = [path for path in folder.iterdir() if path.is_dir() and is_shown(path.name)]
    roots = [folder, *sorted(subfolders)]
    lists = [(root, file) for root in roots for file in _voc_lists(root) if not files]
    if lists:
        return [
            AnnotatedSplit(
                f'{root.resolve().name}/{file.stem}',
                root,
                root / 'JPEGImages',
                read_voc(file, root / 'Annotations', root / 'JPEGImages'),
                sub_data_root='' if root == folder else root.name,
                annotations=root / 'Annotations',
            )
            for root, file in lists
        ]
    files = files or coco_files(folder, roots)
    if not files:
        raise unknown_layout(folder)
    splits = []
    for file in files:
        content = read_coco(file, '')
        image_folder = coco_images(folder, file, content, images)
        content.images = [
            image._replace(path=image.path and os.path.join(image_folder, image.path))
            for image in content.images
        ]
        splits.append(AnnotatedSplit(split_name(file, files), folder, image_folder, content))
        _find_by_last_part(splits[-1])
    return splits


def split_name(file: Path, files: list[Path]) -> str:
    """A file's stem, preceded by its folder if other files have the same stem, as in Roboflow."""
    same_stem = sum(path.stem == file.stem for path in files) > 1
    return f'{file.parent.resolve().name}/{file.stem}' if same_stem else file.stem


def _voc_lists(root: Path) -> list[Path]:
    """The image lists of a VOC folder, without lists of single classes (cat_train.txt)."""
    files = [path for path in (root / 'ImageSets/Main').glob('*.txt') if is_shown(path.name)]
    stems = {file.stem for file in files}
    return [
        file
        for file in sorted(files)
        if not file.stem.endswith(CLEAN) and file.stem.rpartition('_')[2] not in stems - {file.stem}
    ]


def coco_files(folder: Path, roots: list[Path]) -> list[Path]:
    """The COCO files of a folder: `instances_*.json` if there are any, else all.

    If there is no COCO file, all JSONs are returned; reading them reports what is wrong.
    """
    others: list[Path] = []
    for places in ([folder / 'annotations'], [folder], roots[1:]):
        paths = sorted(path for place in places if place.is_dir() for path in place.iterdir())
        jsons = [path for path in paths if path.suffix.lower() == '.json' and is_shown(path.name)]
        if files := coco_among(jsons):
            return files
        others = others or [file for file in jsons if not file.stem.endswith(CLEAN)]
    return others


def coco_among(jsons: Iterable[Path]) -> list[Path]:
    """The COCO files among JSONs: `instances_*` if there are such, else all.

    They are recognized by their text among other JSONs, such as LabelMe's, so that damaged ones are
    found and reported.
    """
    found = [file for file in jsons if not file.stem.endswith(CLEAN) and _is_coco(file)]
    return [file for file in found if file.stem.startswith('instances_')] or found


def _is_coco(file: Path) -> bool:
    text = file.read_bytes()
    return b'"images"' in text and b'"annot' in text


def _find_by_last_part(split: AnnotatedSplit) -> None:
    """Find images whose folders in the COCO file are those of another machine, by their names.

    mmdet does not find them by itself, so it is a fault, which a clean file corrects.
    """
    images = split.content.images
    lost = [n for n, image in enumerate(images) if image.path and not os.path.exists(image.path)]
    lost = [n for n in lost if file_under_another_name(images[n].path) is None]
    listed = {os.path.normpath(image.path) for image in images if image.path}
    by_name: dict[str, list[str]] = defaultdict(list)
    for path in walk_files(split.images, projects=False) if lost else ():
        if os.path.normpath(path) not in listed:  # it would be the image of two entries
            by_name[path.name].append(str(path))
    several = {}
    for index in lost:
        name = split.content.raw['images'][index]['file_name']
        paths = by_name[name.replace('\\', '/').rpartition('/')[2]]
        if len(paths) == 1:
            images[index] = images[index]._replace(path=paths[0])
            message = f'is listed as {name}, which does not exist'
            kind = 'image under another name'
            split.content.add_fault(kind, paths[0], message, image=index)
        elif paths:
            several[name] = f'{name}: {first_few(paths, 2)}'
    if several:
        split.notes.append(
            f'{len(several):,} missing images have the name of several files, for example '
            f'{next(iter(several.values()))}; write their folders into file_name'
        )


def coco_images(folder: Path, file: Path, content: Content, images: Path | None) -> Path:
    """The folder of a COCO file's images: `images`, or the usual folder that has most of them."""
    if images is not None:
        check_folder(images, f'the images of {file}', '--images')
        return images
    split = file.stem.removeprefix('instances_')
    places = [folder / split, folder / 'images' / split, folder / 'images', file.parent, folder]
    # A backslash is a fault, which is reported later.
    names = [image.path.replace('\\', '/') for image in content.images if image.path]
    best = max(
        places,
        key=lambda place: sum(
            file_under_another_name(str(place / name)) is not None for name in names[:20]
        ),
    )
    if best == places[0] and not best.is_dir():
        tried = first_few([f'{place}/' for place in dict.fromkeys(places)], 5)
        raise InputError(
            f'no folder {best}, and the images of {file} ({first_few(names)}) are in none of the '
            f'usual folders ({tried}); give their folder with --images'
        )
    return best
