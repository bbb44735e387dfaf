"""Read folders with VOC XMLs: a devkit with lists, or XMLs and images in any folders.

VOC's boxes are whole pixels counted from 1, and include the last one: xmin=1, xmax=10 is 10 pixels
wide. If a box of a set starts at 0, or a tenth of them have fractions, as CVAT's do, its tool wrote
edges counted from 0, and all boxes of the set are read in this way. (VOC2012 itself has fractions
in a few boxes.) mmdet's reader takes the last pixel as the edge instead.
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

from ...utils.errors import InputError, first_few
from ..validation.content import REMEDIES, Content, ListedImage
from ..validation.images import header_size, same_for_all_cases
from ..validation.splits import AnnotatedSplit
from ..validation.voc import (
    Box,
    check_boxes_together,
    meant_name,
    read_list,
    read_xml,
)
from .files import SPLITS, Files, best_of, by_split, shared_end, split_of_name


def voc_files_of(files: Files) -> list[Path]:
    """The XMLs of a data folder; [] if none is in VOC's format."""
    return files.xmls if any(map(_is_voc, files.xmls)) else []


def _is_voc(xml: Path) -> bool:
    text = xml.read_bytes()
    return b'<annotation' in text and b'<annotations' not in text


def read_voc_folder(files: Files) -> list[AnnotatedSplit]:
    """The splits of a VOC folder, named 'train', 'val' or 'test', or 'all' if there is only one.

    Image lists define the splits; without lists, the names of folders do.

    Raises:
        InputError: a list cannot be read, only some XMLs are in folders of splits, an XML can be
            that of several images, an image that of several XMLs, or the boxes are not corners in
            pixels.
    """
    groups = _listed(files)
    if not groups:
        groups = {name or 'all': paths for name, paths in by_split(files.xmls, files.root).items()}
    images = _by_stem(files.others) | _by_stem(files.images)  # the check decodes the others too
    listed = {xml for xmls in groups.values() for xml in xmls}
    if unlisted := [xml for xml in files.xmls if xml not in listed]:
        files.notes.append(
            f'{len(unlisted):,} of {len(files.xmls):,} XMLs are in no list of images, and are left '
            f'out: {first_few(list(map(str, unlisted)))}'
        )
        files.noted += [image for xml in unlisted for image in images.get(_stem(xml), [])]
    contents = {name: _read(name, xmls, images, files.root) for name, xmls in groups.items()}
    corners = [box.sides for _, boxes in contents.values() for box in boxes]
    fractions = sum(any(side % 1 for side in sides) for sides in corners)
    from_zero = 10 * fractions > len(corners) or any(min(sides[:2]) <= 0 for sides in corners)
    splits = []
    for name, (content, boxes) in contents.items():
        content.raw = _as_coco(content, boxes, files.root, from_zero)
        splits.append(AnnotatedSplit(name, files.root, files.root, content))
    if from_zero:
        files.notes.append(
            'boxes start at 0 or have fractions: all are read as edges counted from 0'
        )
    return splits


def _stem(path: Path) -> str:
    return same_for_all_cases(path.stem)


def _by_stem(paths: list[Path]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        groups[_stem(path)].append(path)
    return groups


def _listed(files: Files) -> dict[str, list[Path]]:
    """The XMLs in the image lists, by split; {} if there are no lists.

    The lists of VOC2007 and VOC2012 are joined.
    """
    lists = [file for file in files.texts if _split_of_list(file) and file.suffix == '.txt']
    in_main = [file for file in lists if file.parts[-3:-1] == ('ImageSets', 'Main')]
    roots = sorted({file.parents[2] for file in in_main})
    if len(roots) > 1 and not all(re.fullmatch(r'VOC\d{4}', root.name) for root in roots):
        raise InputError(
            f'{files.root} has the image lists of several data sets '
            f'({first_few(list(map(str, roots)))}); give one of these folders'
        )
    xml_folders = list(dict.fromkeys(xml.parent for xml in files.xmls))
    groups: dict[str | None, list[Path]] = {}
    for file in in_main or [file for file in lists if file.parent == files.root]:
        root = file.parents[2] if in_main else files.root
        folders = [folder for folder in xml_folders if folder.is_relative_to(root)]
        for name in read_list(file):
            meant = ((folder, meant_name(name, folder)) for folder in folders)
            xml = next((folder / f'{stem}.xml' for folder, stem in meant if stem), None)
            missing = folders[0] / f'{name.strip()}.xml' if folders else root / name
            groups.setdefault(_split_of_list(file), []).append(xml or missing)
    trainval = groups.pop('trainval', [])
    if 'train' not in groups and trainval:
        groups['train'] = trainval
    if set(groups) == {'train'}:
        train = set(groups['train'])
        val = [xml for xml in trainval if xml not in train]
        if val:
            groups['val'] = val
    distinct = {name: [*dict.fromkeys(groups[name])] for name in SPLITS if name in groups}
    return distinct if len(distinct) != 1 else {'all': next(iter(distinct.values()))}


def _split_of_list(file: Path) -> str | None:
    return 'trainval' if file.stem.lower() == 'trainval' else split_of_name(file.stem)


def _read(
    name: str, xmls: list[Path], images: dict[str, list[Path]], root: Path
) -> tuple[Content, list[Box]]:
    """The content of a split, and its objects with boxes as written in the XMLs."""
    content = Content(Path(os.path.commonpath([xml.parent for xml in xmls])))
    boxes: list[Box] = []
    xml_of: dict[Path, Path] = {}
    for index, xml in enumerate(xmls):
        if not xml.is_file():
            content.add_fault('annotation missing', str(xml), 'does not exist', image=index)
            content.images.append(ListedImage(str(xml.with_suffix('.jpg')), None, 0))
            continue
        picture = _image_of(xml, images.get(_stem(xml), []))
        if xml_of.setdefault(picture, xml) != xml:
            raise InputError(
                f'{xml_of[picture]} and {xml} can both be the annotation of {picture}; give each '
                'image its own name, or move one of the two out of the folder'
            )
        size, count = read_xml(content, index, xml, picture, None, boxes)
        content.images.append(ListedImage(str(picture), size, count))
    check_boxes_together(content, boxes)
    for fault in content.faults:
        if fault.kind in ('boxes in 0..1', 'sizes instead of corners'):
            raise InputError(f'{fault}; {REMEDIES[fault.kind]}'.replace(' ({fix} does)', ''))
    return content, boxes


def _image_of(xml: Path, same_stem: list[Path]) -> Path:
    """The image of an XML file.

    Args:
        same_stem: the images with the stem of the XML. An image of the same split is preferred,
            then the one that the XML names, then the one in the nearest folder, then the one in a
            folder of the same name. If there are none, the path of a missing image next to the XML
            is returned.
    """
    if not same_stem:
        return xml.with_suffix('.jpg')
    if len(same_stem) == 1:
        return same_stem[0]
    try:
        named = (ET.parse(xml).findtext('filename') or '').replace('\\', '/').rpartition('/')[2]
    except (ET.ParseError, ValueError, LookupError, OSError):
        named = ''  # reading the XML reports it

    def nearness(image: Path) -> tuple[bool, bool, bool, int, int]:
        same_split = [split_of_name(part) for part in xml.parts if split_of_name(part)] == [
            split_of_name(part) for part in image.parts if split_of_name(part)
        ]
        shared = len(Path(os.path.commonpath([image.parent, xml.parent])).parts)
        same_folder = shared_end(image.parent, xml.parent)
        return image.stem == xml.stem, same_split, image.name == named, shared, same_folder

    best = best_of(same_stem, nearness)
    if best is None:
        raise InputError(
            f'{xml} can be the annotation of {first_few(list(map(str, same_stem)))}; give each '
            'image its own name'
        )
    return best


def _as_coco(content: Content, boxes: list[Box], root: Path, from_zero: bool) -> dict:
    """The COCO dictionary of a split, without unusable objects."""
    unusable = {
        (fault.image, fault.object)
        for fault in content.faults
        if fault.object is not None and fault.kind != 'box beyond the edge'
    }
    images: list[dict] = []
    annotations: list[dict] = []
    names = sorted(content.classes)
    for index, image in enumerate(content.images):
        size = image.size or header_size(image.path) or (0, 0)
        file_name = Path(os.path.relpath(image.path, root)).as_posix()
        images.append(dict(id=index + 1, file_name=file_name, width=size[0], height=size[1]))
    for box in boxes:
        if (box.image, box.number) in unusable:
            continue
        left, top, right, bottom = box.sides
        if not from_zero:
            left, top = left - 1, top - 1
        bbox = [left, top, right - left, bottom - top]
        annotations.append(
            dict(
                id=len(annotations) + 1,
                image_id=box.image + 1,
                category_id=names.index(box.name) + 1,
                bbox=bbox,
                area=bbox[2] * bbox[3],
                iscrowd=int(box.difficult),  # mmdet ignores both
            )
        )
    categories = [dict(id=number, name=name) for number, name in enumerate(names, 1)]
    return dict(images=images, annotations=annotations, categories=categories)
