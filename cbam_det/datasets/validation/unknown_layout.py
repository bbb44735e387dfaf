"""The error for a folder in neither COCO's nor VOC's layout, and how a config can read it."""

from __future__ import annotations

import os
import shlex
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

from ...utils.errors import InputError, first_few
from ...utils.installation import tool_command
from .config_layout import COCO_LAYOUT, VOC_LAYOUT
from .images import ENDINGS
from .voc import meant_name

KINDS = {'XMLs': ('.xml',), 'images': ENDINGS, 'JSONs': ('.json',), 'text files': ('.txt',)}


def unknown_layout(folder: Path) -> InputError:
    """The error for a folder of unknown layout.

    If the folder has XMLs and images, the remedy has commands that write image lists, and the data
    sets of a config that read them.
    """
    folder = folder.absolute()  # so that the remedy works in any working directory
    counts: dict[str, Counter[Path]] = {kind: Counter() for kind in KINDS}
    for subfolder, _, names in os.walk(folder):
        for name in names:
            for kind, endings in KINDS.items():
                counts[kind][Path(subfolder)] += name.lower().endswith(endings)
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
    if not xmls or not images:
        init = tool_command('init', folder, '--out', 'FOLDER')
        reader = f', or try {init}, which reads YOLO labels too' if images else ''
        return InputError(f'{message}; convert it to one of these layouts{reader}')
    lists = {annotations: _list_of(folder, annotations) for annotations in xmls}
    commands = [
        f'for f in {shlex.quote(str(annotations))}/*.xml; do basename "$f" .xml; done > '
        f'{shlex.quote(str(file))}'
        for annotations, file in lists.items()
        if not file.is_file()
    ]
    remedy = f'write a list for each: {" && ".join(commands)}; then ' if commands else ''
    datasets = [_dataset(folder, annotations, images, file) for annotations, file in lists.items()]
    return InputError(
        f'{message}; {remedy}use in a config, which {tool_command("check-data", "CONFIG")} can '
        f'check too: {" and ".join(datasets)}'
    )


def _list_of(folder: Path, annotations: Path) -> Path:
    """The existing list of image names for a folder of XMLs, or the path to write one to."""
    for file in sorted(path for path in folder.glob('*.txt') if path.is_file()):
        names = file.read_text(encoding='utf-8', errors='replace').splitlines()
        if names and all(meant_name(name, annotations) for name in names[:20]):
            return file
    return folder / f'{annotations.name}.txt'


def _dataset(folder: Path, annotations: Path, images: list[Path], file: Path) -> str:
    """The config of the data set, with the classes of the XMLs."""
    xmls = sorted(annotations.glob('*.xml'))
    stems = {path.stem for path in xmls[:20]}
    image_folder = max(
        images, key=lambda folder: len(stems & {path.stem for path in folder.iterdir()})
    )
    classes = set()
    for path in xmls:
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
