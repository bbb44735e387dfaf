"""The doctor of a data folder: every image and every box of its splits, and clean copies of lists.

`annotations.py` finds what is wrong in one annotation file. Here the files of a folder are found,
their images decoded, the splits compared with each other and with the totals of COCO 2017 and VOC.
"""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from mmdet.datasets import CocoDataset, VOCDataset

from ...utils.errors import InputError, some
from ...utils.files import whole_file
from .annotations import (
    KEPT,
    Content,
    Decoded,
    as_id,
    decode_all,
    image_faults,
    list_coco,
    pixel_notes,
    read_coco,
    read_voc,
)
from .dataset import COCO_LAYOUT, VOC_LAYOUT

CLEAN = '_clean'  # what the names of mended files end in
# Split -> images, objects (None: not compared), from the sets' own pages and files.
COCO_TOTALS = {'instances_train2017': (118_287, 860_001), 'instances_val2017': (5_000, 36_781)}
VOC_TOTALS = {
    'VOC2007/trainval': (5_011, None),
    'VOC2007/test': (4_952, None),
    'VOC2012/trainval': (11_540, None),
}
# Faults of a whole image, which a clean file leaves out.
LEFT_OUT = (
    *('image missing', 'image empty', 'image unreadable', 'size differs', 'image entry'),
    *('list line', 'annotation missing', 'no XML'),
)


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
    """

    name: str
    root: Path
    images: Path
    content: Content
    notes: list[str] = field(default_factory=list)
    sub: str = ''

    @property
    def voc(self) -> bool:
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
    found = decode_all(paths, f'decoding the images of {folder}', progress)
    for split in splits:
        split.content.faults += image_faults(split.content, found.__getitem__)
        _compare_totals(split, splits)
        _note(split, found)
    _compare_splits(splits, found)
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
        at = images or _coco_images(folder, file, content)
        content.images = [
            image._replace(path=image.path and os.path.join(at, image.path))
            for image in content.images
        ]
        splits.append(Split(file.stem, folder, at, content))
    return splits


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
    best = max(places, key=lambda place: sum((place / name).is_file() for name in names))
    if best == places[0] and not best.is_dir():
        tried = some(list(map(str, places)), 5)
        raise InputError(
            f'the images of {file} ({some(names)}) are in none of {tried}; name their folder with '
            '--images'
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
    for count, total, what in (
        (len(content.images), images, 'images'),
        (content.objects, objects, 'objects'),
    ):
        if total is not None and count != total:
            said = f'lists {count:,} {what}, the published one {total:,}'
            if split.voc and (absent := _absent_of_voc2007(splits)):
                said += f'; in no list: {some(absent, 9)}'
            content.say('count', str(content.file), said, hurts=False)


def _absent_of_voc2007(splits: list[Split]) -> list[str]:
    """The images of VOC 2007 that neither trainval nor test lists; [] where one has no list."""
    lists = {split.name: split.content.raw for split in splits}
    names = [lists.get(f'VOC2007/{name}') for name in ('trainval', 'test')]
    if None in names:
        return []
    every = {f'{number:06}' for number in range(1, 9964)}
    return sorted(every - {*names[0], *names[1]})


def _note(split: Split, found: dict[str, Decoded]) -> None:
    """What mmdet handles: see `pixel_notes`; images and classes left bare."""
    looks = [found[image.path] for image in split.content.images if image.path]
    split.notes += pixel_notes(looks)
    bare = sum(not image.objects for image in split.content.images)
    if bare:
        split.notes.append(f'{bare:,} images have no objects')
    absent = [name for name, count in split.content.classes.items() if not count]
    if absent:
        split.notes.append(f'no object of {some(absent)}')


def _compare_splits(splits: list[Split], found: dict[str, Decoded]) -> None:
    """Images of the same bytes: in two splits, and twice in one."""
    files: list[dict[str, str]] = []
    for split in splits:
        own: dict[str, str] = {}
        for path in dict.fromkeys(image.path for image in split.content.images if image.path):
            digest = found[path].digest
            if digest in own:
                said = f'is {own[digest]} too'
                split.content.say('same image twice', path, said, hurts=False)
            elif digest:
                own[digest] = path
        files.append(own)
    for (one, its), (other, theirs) in combinations(zip(splits, files, strict=True), 2):
        if one.root == other.root and 'trainval' in (
            one.content.file.stem,
            other.content.file.stem,
        ):
            both = {one.content.file.stem, other.content.file.stem} - {'trainval'}
            if one.voc and both <= {'train', 'val'}:
                continue  # VOC's trainval is both of them
        for digest in its.keys() & theirs.keys():
            place = its[digest]
            said = f'is {theirs[digest]} of {other.name} too'
            said = f'is in {other.name} too' if place == theirs[digest] else said
            hurts = 'train' in one.name + other.name  # val and test may be the same
            one.content.say('same image in two splits', place, said, hurts=hurts)


class Clean(NamedTuple):
    """What stands beside a split without what hurts.

    Attributes:
        files: contents by path, empty where nothing hurts.
        options: keys of a config's data set and their values.
        images: how many are left out.
        objects: how many boxes are left out, with those of such images.
    """

    files: dict[Path, bytes]
    options: list[str]
    images: int = 0
    objects: int = 0


def clean(split: Split) -> Clean:
    """The files that stand beside those of a split without what hurts, and the options for them.

    COCO: a JSON without the images that cannot be used and the boxes that are none; what can be
    told is filled in (`area` from the box, `iscrowd` 0, an id of its own). VOC: a list without such
    images; where objects are left out or a size is put right, the folder `Annotations_clean` with
    the XML of every listed image. The same image in two splits is left to the user.

    Raises:
        InputError: nothing would be left, or the categories have to be mended by hand.
    """
    for fault in split.content.faults:
        if fault.kind == 'category entry':
            raise InputError(f'{fault}; which class is meant has to be mended by hand')
    return (_clean_voc if split.voc else _clean_coco)(split)


def _clean_coco(split: Split) -> Clean:
    content, raw = split.content, split.content.raw
    out = {fault.image for fault in content.faults if fault.kind in LEFT_OUT}
    for fault in content.faults:
        if fault.kind == 'image id twice':
            number = raw['images'][fault.image]['id']
            same = [n for n, one in enumerate(raw['images']) if one.get('id') == number]
            names = {str(raw['images'][n].get('file_name')) for n in same}
            out.update(same[1:] if len(names) == 1 else same)  # of two images: whose boxes?
    images = [image for index, image in enumerate(raw['images']) if index not in out]
    annotations = _completed(raw['annotations'])
    mended = dict(raw, images=images, annotations=annotations)
    faulty = {
        fault.object
        for fault in list_coco(content.file, mended, '').faults
        if fault.object is not None and fault.kind not in KEPT
    }
    kept = [one for index, one in enumerate(annotations) if index not in faulty]
    if not images or not kept:
        raise InputError(f'nothing of {content.file} could be kept; restore its images and boxes')
    if len(images) == len(raw['images']) and kept == raw['annotations']:
        return Clean({}, [])
    path = content.file.with_name(f'{content.file.stem}{CLEAN}.json')
    text = json.dumps(dict(mended, annotations=kept))
    return Clean(
        {path: f'{text}\n'.encode()},
        [f'ann_file={path.relative_to(split.root)}'],
        len(raw['images']) - len(images),
        len(annotations) - len(kept),
    )


def _completed(annotations: list[dict]) -> list[dict]:
    """Copies with what can be told of the rest: area, iscrowd, an id of their own from 1."""
    numbers = [one.get('id') for one in annotations]
    free = max((n for n in numbers if isinstance(n, int)), default=0) + 1
    seen: set = {0, None}
    completed = []
    for one in annotations:
        one = dict(one)
        box = one.get('bbox')
        if one.get('area') is None and isinstance(box, list) and len(box) == 4:
            sides = box[2:]
            if all(isinstance(side, (int, float)) for side in sides):
                one['area'] = sides[0] * sides[1]
        if one.get('iscrowd') is None:
            one['iscrowd'] = 0
        number = one.get('id')
        if as_id(number) is None or number in seen:
            one['id'], free = max(free, 1), max(free, 1) + 1
        seen.add(one['id'])
        completed.append(one)
    return completed


def _clean_voc(split: Split) -> Clean:
    content = split.content
    out = {fault.image for fault in content.faults if fault.kind in LEFT_OUT}
    objects: dict[int, set[int]] = {}
    sizes = {fault.image for fault in content.faults if fault.kind == 'size'}
    for fault in content.faults:
        dropped = fault.object is not None and fault.kind not in KEPT
        if dropped and (fault.hurts or fault.kind in ('box without area', 'box outside the image')):
            objects.setdefault(fault.image, set()).add(fault.object)
    kept = [index for index in range(len(content.raw)) if index not in out]
    if not kept:
        raise InputError(f'nothing of {content.file} could be kept; restore its images and XMLs')
    files, path = {}, content.file
    if out:
        path = content.file.with_name(f'{content.file.stem}{CLEAN}.txt')
        files[path] = ''.join(f'{content.raw[index]}\n' for index in kept).encode()
    # Named even where it is the old one: the XMLs are those of this list.
    options = [f'ann_file={Path(split.sub, path.relative_to(split.root))}']
    if any(index in objects or index in sizes for index in kept):
        for index in kept:
            name = content.raw[index]
            file = split.root / 'Annotations' / f'{name}.xml'
            size = content.images[index].size if index in sizes else None
            copy = split.root / f'Annotations{CLEAN}' / f'{name}.xml'
            faulty = objects.get(index, set())
            files[copy] = _clean_xml(file, faulty, size) if faulty or size else file.read_bytes()
        options.append(f'ann_subdir=Annotations{CLEAN}')
    objects_out = sum(len(objects.get(index, ())) for index in kept)
    objects_out += sum(content.images[index].objects for index in out)
    return Clean(files, options if files else [], len(out), objects_out)


def _clean_xml(file: Path, objects: set[int], size: tuple[int, int] | None) -> bytes:
    root = ET.parse(file).getroot()
    for index, item in enumerate(root.findall('object')):
        if index in objects:
            root.remove(item)
    if size:
        for tag, value in zip(('width', 'height'), size, strict=True):
            node = root.find('size').find(tag)
            if node is None:
                node = ET.SubElement(root.find('size'), tag)
            node.text = str(value)
    return ET.tostring(root) + b'\n'


def write_clean(files: dict[Path, bytes]) -> None:
    """Write the files of `clean`; what a kill leaves out, the same call writes.

    Raises:
        InputError: one of them exists with another content, which stays.
    """
    for path, data in files.items():
        if path.exists() and (not path.is_file() or path.read_bytes() != data):
            raise InputError(f'{path} exists and holds something else; move it away')
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            part.write_bytes(data)


def config_options(split: Split, options: list[str]) -> str:
    """The `--cfg-options` line for clean files, by what the split is called.

    Of a folder with folders of VOC, whose lists a config joins as it likes: the data set and its
    keys, for a `data_root` that is the folder given.
    """
    if split.sub:
        return f'in the data set of {split.name}: {", ".join(options)}'
    name = split.content.file.stem
    loaders = ['train'] if 'train' in name else ['val', 'test']
    line = [f'{one}_dataloader.dataset.{option}' for one in loaders for option in options]
    if not split.voc and loaders != ['train']:
        file = split.root / options[0].removeprefix('ann_file=')
        line += [f'{one}_evaluator.ann_file={file}' for one in loaders]
    return f'--cfg-options {" ".join(line)}'
