"""The error for a folder in neither COCO's nor VOC's layout, and how a config can read it."""

from __future__ import annotations

import os
import shlex
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

from ...utils.errors import InputError, first_few
from ...utils.installation import tool_command
from ..layouts.files import best_of, walk_files
from .config_layout import COCO_LAYOUT, VOC_LAYOUT
from .images import ENDINGS
from .voc import meant_name

KINDS = {'XMLs': ('.xml',), 'images': ENDINGS, 'JSONs': ('.json',), 'text files': ('.txt',)}


def unknown_layout(folder: Path) -> InputError:
    """The error for a folder of unknown layout.

    If the folder has images and XMLs or texts, the remedy is `init`. If it has XMLs, there are also
    commands that write image lists, and the data sets of a config that read them.
    """
    folder = folder.absolute()  # so that the remedy works in any working directory
    counts: dict[str, Counter[Path]] = {kind: Counter() for kind in KINDS}
    for path in walk_files(folder, projects=False):
        for kind, endings in KINDS.items():
            counts[kind][path.parent] += path.name.lower().endswith(endings)
    contents = [
        f'{sum(by_folder.values())} {kind} in '
        f'{first_few([f"{path}/" for path in sorted(+by_folder)])}'
        for kind, by_folder in counts.items()
        if +by_folder
    ]
    message = (
        f'{folder} has neither the COCO nor the VOC layout: for COCO {COCO_LAYOUT}; for VOC '
        f'{VOC_LAYOUT}; it has {", ".join(contents) or "no images and no annotations"}'
    )
    xmls, images = sorted(+counts['XMLs']), sorted(+counts['images'])
    if not images or not (xmls or +counts['text files']):
        return InputError(f'{message}; convert it to one of these layouts')
    message += (
        f'; {tool_command("init", folder, "--out", "PROJECT")} reads VOC and YOLO files in any '
        f'folders, then {tool_command("check-data", "PROJECT/baseline.py")} checks them'
    )
    pairs = {annotations: _images_of(annotations, images) for annotations in xmls}
    if not xmls or None in pairs.values():
        return InputError(message)
    lists = {annotations: _list_of(folder, annotations, xmls) for annotations in xmls}
    commands = [
        f'for f in {shlex.quote(str(annotations))}/*.xml; do basename "$f" .xml; done > '
        f'{shlex.quote(str(file))}'
        for annotations, file in lists.items()
        if not file.is_file()
    ]
    remedy = f'write a list for each: {" && ".join(commands)}; then ' if commands else ''
    datasets = [
        _dataset(folder, annotations, image_folder, lists[annotations])
        for annotations, image_folder in pairs.items()
        if image_folder
    ]
    return InputError(
        f'{message}; or {remedy}use in a config, which {tool_command("check-data", "CONFIG")} can '
        f'check too: {" and ".join(datasets)}'
    )


def _images_of(annotations: Path, images: list[Path]) -> Path | None:
    """The folder with the images of a folder of XMLs; None if it could be another one too, or none.

    Of several folders with the same names, it is the one whose path has most folders in common.
    """
    stems = {path.stem for path in annotations.glob('*.xml')}

    def likeness(folder: Path) -> tuple[int, int]:
        common = {*folder.parts} & {*annotations.parts}
        return len(stems & {path.stem for path in folder.iterdir()}), len(common)

    best = best_of(images, likeness)
    return best if best and likeness(best)[0] else None


def _list_of(folder: Path, annotations: Path, xmls: list[Path]) -> Path:
    """The list of image names for a folder of XMLs: one of its name, one that fits no other folder,
    or the path to write one to.
    """
    own = folder / f'{"_".join(annotations.relative_to(folder).parts) or folder.name}.txt'
    by_name = folder / f'{annotations.name}.txt'
    for file in (own, by_name):
        if file.is_file() and _fits(file, annotations):
            return file
    for file in sorted(path for path in folder.glob('*.txt') if path.is_file()):
        if [other for other in xmls if _fits(file, other)] == [annotations]:
            return file
    same_name = [path for path in xmls if path.name == annotations.name]
    return own if len(same_name) > 1 or by_name.exists() else by_name


def _fits(file: Path, annotations: Path) -> bool:
    names = file.read_text(encoding='utf-8', errors='replace').splitlines()
    return bool(names) and all(meant_name(name, annotations) for name in names[:20])


def _dataset(folder: Path, annotations: Path, image_folder: Path, file: Path) -> str:
    """The config of the data set, with the classes of the XMLs."""
    classes = set()
    for path in sorted(annotations.glob('*.xml')):
        try:
            objects = ET.parse(path).iterfind('object/name')
        except (ET.ParseError, ValueError, LookupError, OSError):
            continue  # the check of the data set reports it
        classes |= {item.text for item in objects if item.text}
    values = dict(
        data_root=f'{folder}/',
        ann_file=os.path.relpath(file, folder),
        data_prefix=dict(sub_data_root=''),
        ann_subdir=os.path.relpath(annotations, folder),
        img_subdir=os.path.relpath(image_folder, folder),
        metainfo=dict(classes=tuple(sorted(classes))),
    )
    arguments = ', '.join(f'{key}={value!r}' for key, value in values.items())
    return f"dict(type='XMLDataset', {arguments})"
