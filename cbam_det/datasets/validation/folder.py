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

from mmdet.datasets import CocoDataset, VOCDataset

from ...utils.errors import InputError, first_few
from .coco import read_coco
from .content import Content, unusable_reason
from .dataset import COCO_LAYOUT, VOC_LAYOUT
from .images import Decoded, decode_all, image_faults, pixel_notes
from .voc import read_voc

CLEAN = '_clean'  # what the names of mended files end in
# Split -> images, objects (None: not compared), from the sets' own pages and files.
COCO_TOTALS: dict[str, tuple[int, int | None]] = {
    'instances_train2017': (118_287, 860_001),
    'instances_val2017': (5_000, 36_781),
}
VOC_TOTALS: dict[str, tuple[int, int | None]] = {
    'VOC2007/trainval': (5_011, None),
    'VOC2007/test': (4_952, None),
    'VOC2012/trainval': (11_540, None),
}


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
    """

    name: str
    root: Path
    images: Path
    content: Content
    notes: list[str] = field(default_factory=list)
    sub_data_root: str = ''

    @property
    def role(self) -> str | None:
        """'train', 'val' or 'test', by its name or by the folders of its file and its images."""
        folders = (self.content.file.parent, self.images)
        folder_names = [folder.name for folder in folders if folder != self.root]
        for name in (self.content.file.stem, *folder_names):
            if match := re.search('train|(?<![a-z])(val|test)', name.lower()):
                return match[0]
        return None

    @property
    def is_voc(self) -> bool:
        return self.content.file.suffix == '.txt'


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
    splits = find_splits(folder, images)
    paths = [image.path for split in splits for image in split.content.images if image.path]
    decoded = decode_all(paths, f'decoding the images of {folder}', progress)
    for split in splits:
        content = split.content
        hurts = any(fault.hurts for fault in content.faults)  # of which no object may be left
        if not hurts and (problem := unusable_reason(content)):
            content.add_fault('no objects', str(content.file), problem)
        content.faults += image_faults(content, decoded.__getitem__)
        _compare_totals(split, splits)
        _add_notes(split, decoded)
    _compare_splits(splits, decoded)
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
            )
            for root, file in lists
        ]
    files = _coco_files(folder, roots)
    if not files:
        raise InputError(
            f'{folder} is no data set that is known: for COCO {COCO_LAYOUT}; for VOC {VOC_LAYOUT}'
        )
    splits = []
    for file in files:
        content = read_coco(file, '')
        image_folder = images or _coco_images(folder, file, content)
        content.images = [
            image._replace(path=image.path and os.path.join(image_folder, image.path))
            for image in content.images
        ]
        splits.append(Split(_split_name(file, files), folder, image_folder, content))
    return splits


def _split_name(file: Path, files: list[Path]) -> str:
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


def _coco_files(folder: Path, roots: list[Path]) -> list[Path]:
    """Its detection files: `instances_*`, where there are such, else every JSON."""
    for places in ([folder / 'annotations'], [folder], roots[1:]):
        files = sorted(file for place in places for file in place.glob('*.json'))
        files = [file for file in files if not file.stem.endswith(CLEAN)]
        if files:
            return [file for file in files if file.stem.startswith('instances_')] or files
    return []


def _coco_images(folder: Path, file: Path, content: Content) -> Path:
    """The folder in which the first images lie, among those that the names suggest."""
    split = file.stem.removeprefix('instances_')
    places = [folder / split, folder / 'images' / split, folder / 'images', file.parent, folder]
    names = [image.path for image in content.images if image.path][:20]
    names = [name.replace('\\', '/') for name in names]  # Windows' names are a fault, said later
    best = max(places, key=lambda place: sum((place / name).is_file() for name in names))
    if best == places[0] and not best.is_dir():
        tried = first_few(list(map(str, places)), 5)
        raise InputError(
            f'the images of {file} ({first_few(names)}) are in none of {tried}; name their folder '
            'with --images'
        )
    return best


def _compare_totals(split: Split, splits: list[Split]) -> None:
    content = split.content
    if split.is_voc:
        published_classes, totals = VOCDataset.METAINFO['classes'], VOC_TOTALS
    else:
        published_classes, totals = CocoDataset.METAINFO['classes'], COCO_TOTALS
    # COCO's file lists all categories, VOC's XMLs show those that have objects.
    classes, published = set(content.classes), set(published_classes)
    same_classes = classes <= published if split.is_voc else classes == published
    if split.name not in totals or not same_classes:
        return
    images, objects = totals[split.name]
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


def _compare_splits(splits: list[Split], decoded: dict[str, Decoded]) -> None:
    """Images of the same bytes: in two splits, and twice in one."""
    paths_of_splits: list[dict[str, str]] = []
    for split in splits:
        path_of_digest: dict[str, str] = {}
        for path in dict.fromkeys(image.path for image in split.content.images if image.path):
            digest = decoded[path].digest
            if digest in path_of_digest:
                message = f'is {path_of_digest[digest]} too'
                split.content.add_fault('same image twice', path, message, hurts=False)
            elif digest:
                path_of_digest[digest] = path
        paths_of_splits.append(path_of_digest)
    pairs = combinations(zip(splits, paths_of_splits, strict=True), 2)
    for (split, paths), (other_split, other_paths) in pairs:
        if split.root == other_split.root and 'trainval' in (
            split.content.file.stem,
            other_split.content.file.stem,
        ):
            stems = {split.content.file.stem, other_split.content.file.stem} - {'trainval'}
            if split.is_voc and stems <= {'train', 'val'}:
                continue  # VOC's trainval is both of them
        for digest in paths.keys() & other_paths.keys():
            place = paths[digest]
            if place == other_paths[digest]:
                message = f'is in {other_split.name} too'
            else:
                message = f'is {other_paths[digest]} of {other_split.name} too'
            roles = {split.role, other_split.role}
            hurts = roles not in ({'val'}, {'test'}, {'val', 'test'})  # which may be the same
            split.content.add_fault('same image in two splits', place, message, hurts=hurts)
