"""The doctor of a data folder: every image and every box of its splits.

`coco.py` and `voc.py` find what is wrong in one annotation file. Here the files of a folder are
found, their images decoded, the splits compared with each other and with the totals of COCO 2017
and VOC.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from ...utils.errors import InputError, first_few
from .coco import read_coco
from .content import Content, unusable_reason
from .images import (
    ENDINGS,
    Decoded,
    add_repeated_images,
    decode_all,
    file_under_another_name,
    image_faults,
    pixel_notes,
)
from .published import COCO_CLASSES, COCO_TOTALS, VOC_CLASSES, VOC_TOTALS
from .unknown_layout import unknown_layout
from .voc import check_folder, read_voc

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
    def is_voc(self) -> bool:
        return self.content.is_voc


def examine(folder: Path, images: Path | None = None, progress: bool = True) -> list[Split]:
    """Check a COCO or VOC folder: every image decoded, every box, the splits against each other.

    Args:
        folder: COCO's (`annotations/*.json`, or JSONs in it or in its folders), or VOC's
            (`ImageSets`, `Annotations`, `JPEGImages`), or one with such folders of VOC in it.
        images: COCO's images, where they are not found by the names of the files.
        progress: show a bar.

    Raises:
        InputError: there is no such data, or a file is no COCO JSON or no list at all.
    """
    return examine_splits(find_splits(folder, images), f'decoding the images of {folder}', progress)


def examine_splits(splits: list[Split], description: str, progress: bool = True) -> list[Split]:
    """Add the faults of the images of splits, and what shows where these are compared.

    Args:
        description: of the bar.
        progress: show it.
    """
    paths = [image.path for split in splits for image in split.content.images if image.path]
    decoded = decode_all(paths, description, progress)
    for split in splits:
        content = split.content
        hurts = any(fault.hurts for fault in content.faults)  # of which no object may be left
        if split.annotated and not hurts and (problem := unusable_reason(content)):
            content.add_fault('no objects', str(content.file), problem)
        content.faults += image_faults(content, decoded.__getitem__)
        _compare_totals(split, splits)
        _add_notes(split, decoded)
    _compare_splits(splits, decoded)
    _note_unlisted(splits)
    return splits


def find_splits(folder: Path, images: Path | None = None) -> list[Split]:
    """The annotation files of a folder, read; see `examine`."""
    if not folder.is_dir():
        raise InputError(f"no data folder {folder}; name one in COCO's or VOC's layout")
    roots = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    lists = [(root, file) for root in roots for file in _voc_lists(root)]
    if lists:
        return [
            Split(
                f'{root.resolve().name}/{file.stem}',
                root,
                root / 'JPEGImages',
                read_voc(file, root / 'Annotations', root / 'JPEGImages'),
                sub_data_root='' if root == folder else root.name,
                annotations=root / 'Annotations',
            )
            for root, file in lists
        ]
    files = coco_files(folder, roots)
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
        splits.append(Split(split_name(file, files), folder, image_folder, content))
    return splits


def split_name(file: Path, files: list[Path]) -> str:
    """A file's stem; with its folder where another has the stem (Roboflow calls all alike)."""
    same_stem = sum(path.stem == file.stem for path in files) > 1
    return f'{file.parent.resolve().name}/{file.stem}' if same_stem else file.stem


def _voc_lists(root: Path) -> list[Path]:
    """The image lists of a VOC folder, without those of single classes (cat_train.txt)."""
    files = sorted((root / 'ImageSets/Main').glob('*.txt'))
    stems = {file.stem for file in files}
    return [
        file
        for file in files
        if not file.stem.endswith(CLEAN) and file.stem.rpartition('_')[2] not in stems - {file.stem}
    ]


def coco_files(folder: Path, roots: list[Path]) -> list[Path]:
    """Its detection files: `instances_*`, where there are such, else every JSON."""
    for places in ([folder / 'annotations'], [folder], roots[1:]):
        files = sorted(file for place in places for file in place.glob('*.json'))
        files = [file for file in files if not file.stem.endswith(CLEAN)]
        if files:
            return [file for file in files if file.stem.startswith('instances_')] or files
    return []


def coco_images(folder: Path, file: Path, content: Content, images: Path | None) -> Path:
    """`images`, or the folder in which the first ones lie, among those that the names suggest."""
    if images is not None:
        check_folder(images, f'the images of {file}', '--images')
        return images
    split = file.stem.removeprefix('instances_')
    places = [folder / split, folder / 'images' / split, folder / 'images', file.parent, folder]
    names = [image.path for image in content.images if image.path][:20]
    names = [name.replace('\\', '/') for name in names]  # Windows' names are a fault, said later
    best = max(
        places,
        key=lambda place: sum(
            file_under_another_name(str(place / name)) is not None for name in names
        ),
    )
    if best == places[0] and not best.is_dir():
        tried = first_few(list(map(str, places)), 5)
        raise InputError(
            f'no folder {best}, and the images of {file} ({first_few(names)}) are in none of '
            f'{tried}; restore it, or name their folder with --images'
        )
    return best


def _compare_totals(split: Split, splits: list[Split]) -> None:
    content = split.content
    if split.is_voc:
        published_classes, totals = VOC_CLASSES, VOC_TOTALS
    else:
        published_classes, totals = COCO_CLASSES, COCO_TOTALS
    # COCO's file lists all categories, VOC's XMLs show those that have objects.
    classes, published = set(content.classes), set(published_classes)
    same_classes = classes <= published if split.is_voc else classes == published
    if split.name not in totals or not same_classes:
        return
    images, objects = totals[split.name]
    if 2 * len(content.images) < images:  # another set, under the names of its files
        split.notes.append(
            f'{len(content.images):,} images, not the {images:,} of the set so named'
        )
        return
    for count, total, counted in (
        (len(content.images), images, 'images'),
        (content.objects, objects, 'objects'),
    ):
        if total is not None and count != total:
            message = f'lists {count:,} {counted}, the published one {total:,}'
            if split.is_voc and (absent := _absent_of_voc2007(splits)):
                message += f'; in no list: {first_few(absent, 9)}'
            content.add_fault('count', str(content.file), message, hurts=False)


def _absent_of_voc2007(splits: list[Split]) -> list[str]:
    """The images of VOC 2007 that neither trainval nor test lists; [] where one has no list."""
    lists = {split.name: split.content.names for split in splits}
    trainval, test = lists.get('VOC2007/trainval'), lists.get('VOC2007/test')
    if trainval is None or test is None:
        return []
    all_names = {f'{number:06}' for number in range(1, 9964)}
    return sorted(all_names - {*trainval, *test})


def _add_notes(split: Split, decoded: dict[str, Decoded]) -> None:
    """What mmdet handles: see `pixel_notes`; images and classes left bare."""
    images = [decoded[image.path] for image in split.content.images if image.path]
    split.notes += pixel_notes(images)
    without_objects = sum(not image.objects for image in split.content.images)
    if without_objects:
        split.notes.append(f'{without_objects:,} images have no objects')
    absent = [name for name, count in split.content.classes.items() if not count]
    if absent:
        split.notes.append(f'no object of {first_few(absent)}')


def _note_unlisted(splits: list[Split]) -> None:
    """Count the images in the folders of the splits that no file lists."""
    listed = {os.path.abspath(image.path) for split in splits for image in split.content.images}
    for split in splits:
        for fault in split.content.faults:
            if fault.kind == 'image under another name':
                listed.add(os.path.abspath(file_under_another_name(fault.place) or fault.place))
    folders = {split.images.absolute(): split for split in splits}
    for folder, split in folders.items():
        if any(parent in folders for parent in folder.parents):
            continue
        paths = [
            os.path.join(subfolder, name)
            for subfolder, _, names in os.walk(folder)
            for name in sorted(names)
            if name.lower().endswith(ENDINGS)
        ]
        unlisted = [os.path.relpath(path, folder) for path in paths if path not in listed]
        if unlisted:
            split.notes.append(
                f'{len(unlisted):,} of {len(paths):,} images in {split.images} are in no '
                f'annotation file: {first_few(unlisted)}'
            )


def _compare_splits(splits: list[Split], decoded: dict[str, Decoded]) -> None:
    """Images of the same bytes: in two splits, and twice in one."""
    paths_of_splits = [add_repeated_images(split.content, decoded) for split in splits]
    pairs = combinations(zip(splits, paths_of_splits, strict=True), 2)
    for (split, paths), (other_split, other_paths) in pairs:
        if not split.places and split.root == other_split.root and split.is_voc:
            stems = {split.content.file.stem, other_split.content.file.stem}
            if 'trainval' in stems and stems <= {'train', 'val', 'trainval'}:
                continue  # VOC's trainval is both of them
        shared = sorted(paths.keys() & other_paths.keys())
        # Nothing leaks between a split and a part of it in a file of its own, nor where one set is
        # both the validation's and the test's.
        same_role = split.role is not None and split.role == other_split.role
        is_part = same_role and len(shared) in (len(paths), len(other_paths))
        evaluated = {split.role, other_split.role} <= {'val', 'test'}
        is_same_set = evaluated and len(paths) == len(shared) == len(other_paths)
        hurts = not (is_part or is_same_set)
        for digest in shared:
            place = paths[digest]
            if place == other_paths[digest]:
                message = f'is in {other_split.name} too'
            else:
                message = f'is {other_paths[digest]} of {other_split.name} too'
            split.content.add_fault('same image in two splits', place, message, hurts=hurts)
