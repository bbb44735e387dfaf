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
from .content import Content, nothing_usable
from .images import (
    ENDINGS,
    Decoded,
    add_copies,
    decode_all,
    file_under_another_name,
    image_faults,
    pixel_notes,
)
from .unknown_layout import unknown_layout
from .voc import check_folder, read_voc

CLEAN = '_clean'  # what the names of clean files end in
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
        sub: `root` in the folder that was given, as `data_prefix.sub_data_root` names it in a
            config whose `data_root` is that folder; '' where both are one.
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
    sub: str = ''
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
        names = [folder.name for folder in folders if folder != self.root]
        for name in (self.content.file.stem, *names):
            if found := re.search('train|(?<![a-z])(val|test)', name.lower()):
                return found[0]
        return None

    @property
    def voc(self) -> bool:
        return self.content.voc


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
    found = decode_all(paths, description, progress)
    for split in splits:
        content = split.content
        hurts = any(fault.hurts for fault in content.faults)  # of which no object may be left
        if split.annotated and not hurts and (said := nothing_usable(content)):
            content.add_fault('no objects', str(content.file), said)
        content.faults += image_faults(content, found.__getitem__)
        _compare_totals(split, splits)
        _note(split, found)
    _compare_splits(splits, found)
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
                sub='' if root == folder else root.name,
                annotations=root / 'Annotations',
            )
            for root, file in lists
        ]
    files = _coco_files(folder, roots)
    if not files:
        raise unknown_layout(folder)
    splits = []
    for file in files:
        content = read_coco(file, '')
        at = _coco_images(folder, file, content, images)
        content.images = [
            image._replace(path=image.path and os.path.join(at, image.path))
            for image in content.images
        ]
        splits.append(Split(coco_name(file, files), folder, at, content))
    return splits


def coco_name(file: Path, files: list[Path]) -> str:
    """A file's stem; with its folder where another has the stem (Roboflow calls all alike)."""
    alike = sum(other.stem == file.stem for other in files) > 1
    return f'{file.parent.resolve().name}/{file.stem}' if alike else file.stem


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


def _coco_images(folder: Path, file: Path, content: Content, images: Path | None) -> Path:
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
    if split.voc:
        known, totals = VOCDataset.METAINFO['classes'], VOC_TOTALS
    else:
        known, totals = CocoDataset.METAINFO['classes'], COCO_TOTALS
    # COCO's file lists all categories, VOC's XMLs show those that have objects.
    alike = set(content.classes) <= set(known) if split.voc else {*content.classes} == {*known}
    if split.name not in totals or not alike:
        return
    images, objects = totals[split.name]
    if 2 * len(content.images) < images:  # another set, under the names of its files
        split.notes.append(
            f'{len(content.images):,} images, not the {images:,} of the set so named'
        )
        return
    for count, total, what in (
        (len(content.images), images, 'images'),
        (content.objects, objects, 'objects'),
    ):
        if total is not None and count != total:
            said = f'lists {count:,} {what}, the published one {total:,}'
            if split.voc and (absent := _absent_of_voc2007(splits)):
                said += f'; in no list: {first_few(absent, 9)}'
            content.add_fault('count', str(content.file), said, hurts=False)


def _absent_of_voc2007(splits: list[Split]) -> list[str]:
    """The images of VOC 2007 that neither trainval nor test lists; [] where one has no list."""
    lists = {split.name: split.content.names for split in splits}
    trainval, test = lists.get('VOC2007/trainval'), lists.get('VOC2007/test')
    if trainval is None or test is None:
        return []
    every = {f'{number:06}' for number in range(1, 9964)}
    return sorted(every - {*trainval, *test})


def _note(split: Split, found: dict[str, Decoded]) -> None:
    """What mmdet handles: see `pixel_notes`; images and classes left bare."""
    looks = [found[image.path] for image in split.content.images if image.path]
    split.notes += pixel_notes(looks)
    bare = sum(not image.objects for image in split.content.images)
    if bare:
        split.notes.append(f'{bare:,} images have no objects')
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
        images = [
            os.path.join(at, name)
            for at, _, names in os.walk(folder)
            for name in sorted(names)
            if name.lower().endswith(ENDINGS)
        ]
        others = [os.path.relpath(path, folder) for path in images if path not in listed]
        if others:
            split.notes.append(
                f'{len(others):,} of {len(images):,} images in {split.images} are in no annotation '
                f'file: {first_few(others)}'
            )


def _compare_splits(splits: list[Split], found: dict[str, Decoded]) -> None:
    """Images of the same bytes: in two splits, and twice in one."""
    files: list[dict[str, str]] = []
    for split in splits:
        files.append(add_copies(split.content, found))
    for (one, its), (other, theirs) in combinations(zip(splits, files, strict=True), 2):
        if not one.places and one.root == other.root and one.voc:
            both = {one.content.file.stem, other.content.file.stem}
            if 'trainval' in both and both <= {'train', 'val', 'trainval'}:
                continue  # VOC's trainval is both of them
        both_of = sorted(its.keys() & theirs.keys())
        # Nothing leaks between a split and a part of it in a file of its own, nor where one set is
        # both the validation's and the test's.
        same_role = one.role is not None and one.role == other.role
        part = same_role and len(both_of) in (len(its), len(theirs))
        evaluated = {one.role, other.role} <= {'val', 'test'}
        hurts = not (part or (evaluated and len(its) == len(both_of) == len(theirs)))
        for digest in both_of:
            place = its[digest]
            said = f'is {theirs[digest]} of {other.name} too'
            said = f'is in {other.name} too' if place == theirs[digest] else said
            one.content.add_fault('same image in two splits', place, said, hurts=hurts)
