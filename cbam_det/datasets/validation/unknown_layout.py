"""A folder in neither COCO's nor VOC's layout: what is in it, and how a config can read it."""

from __future__ import annotations

import os
import shlex
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

from ...utils.errors import InputError, first_few
from .dataset import COCO_LAYOUT, VOC_LAYOUT
from .images import ENDINGS
from .voc import meant_name

KINDS = {'XMLs': ('.xml',), 'images': ENDINGS, 'JSONs': ('.json',), 'text files': ('.txt',)}


def unknown_layout(folder: Path) -> InputError:
    """The error for a folder of unknown layout; for one with XMLs, the lists to write and the data
    sets that read them.
    """
    counts: dict[str, Counter[Path]] = {kind: Counter() for kind in KINDS}
    for at, _, names in os.walk(folder):
        for name in names:
            for kind, endings in KINDS.items():
                counts[kind][Path(at)] += name.lower().endswith(endings)
    has = [
        f'{sum(where.values())} {kind} in {first_few([f"{path}/" for path in sorted(+where)])}'
        for kind, where in counts.items()
        if +where
    ]
    said = (
        f'{folder} is no data set that is known: for COCO {COCO_LAYOUT}; for VOC {VOC_LAYOUT}; '
        f'it has {", ".join(has) or "no images and no annotations"}'
    )
    xmls, images = sorted(+counts['XMLs']), sorted(+counts['images'])
    if not xmls or not images:
        return InputError(f'{said}; bring it into one of these layouts')
    lists = {at: _list_of(folder, at) for at in xmls}
    commands = [
        f'for f in {shlex.quote(str(at))}/*.xml; do basename "$f" .xml; done > '
        f'{shlex.quote(str(file))}'
        for at, file in lists.items()
        if not file.is_file()
    ]
    ways = [f'write a list of each: {" && ".join(commands)}; then'] if commands else []
    datasets = [_dataset(folder, at, images, file) for at, file in lists.items()]
    return InputError(
        f'{said}; {"".join(ways)} name in a config, for tools/check_data.py CONFIG too: '
        f'{" and ".join(datasets)}'
    )


def _list_of(folder: Path, annotations: Path) -> Path:
    """The list of image names that is there for a folder of XMLs, or the one to write."""
    for file in sorted(path for path in folder.glob('*.txt') if path.is_file()):
        names = file.read_text(encoding='utf-8', errors='replace').splitlines()
        if names and all(meant_name(name, annotations) for name in names[:20]):
            return file
    return folder / f'{annotations.name}.txt'


def _dataset(folder: Path, annotations: Path, images: list[Path], file: Path) -> str:
    """The dictionary of the data set, with the classes of the XMLs."""
    xmls = sorted(annotations.glob('*.xml'))
    stems = {path.stem for path in xmls[:20]}
    pictures = max(images, key=lambda at: len(stems & {path.stem for path in at.iterdir()}))
    classes = set()
    for path in xmls:
        try:
            objects = ET.parse(path).iterfind('object/name')
        except (ET.ParseError, ValueError, LookupError, OSError):
            continue  # which the check of the data set names
        classes |= {item.text for item in objects if item.text}
    values = dict(
        data_root=f'{folder}/',
        ann_file=os.path.relpath(file, folder),
        data_prefix=dict(sub_data_root=''),
        ann_subdir=os.path.relpath(annotations, folder),
        img_subdir=os.path.relpath(pictures, folder),
        metainfo=dict(classes=tuple(sorted(classes))),
    )
    return (
        f"dict(type='XMLDataset', {', '.join(f'{key}={value!r}' for key, value in values.items())})"
    )
