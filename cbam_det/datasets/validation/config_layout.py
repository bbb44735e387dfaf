"""The COCO and VOC layouts of mmdet's data sets, and the errors for missing files."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Literal

from ...utils.data_config import DataSet
from ...utils.errors import InputError, first_few
from ...utils.installation import tool_command

LAYOUTS: dict[str, Literal['coco', 'voc']] = {'CocoDataset': 'coco', 'XMLDataset': 'voc'}
COCO_LAYOUT = (
    'expected annotations/instances_train2017.json, annotations/instances_val2017.json, '
    'train2017/ and val2017/ in it'
)
VOC_LAYOUT = 'expected ImageSets/Main/, Annotations/ and JPEGImages/ in it'
BCCD = 'github.com/Shenggan/BCCD_Dataset'


def layout_of(dataset: DataSet) -> Literal['coco', 'voc'] | None:
    """The layout of a data set's files; None if it is neither COCO nor VOC.

    It is known if mmdet's CocoDataset or XMLDataset reads the files, so a subclass that overrides
    their methods for that gives None.
    """
    kind = dataset.kind
    for base in getattr(kind, '__mro__', ()):
        layout = LAYOUTS.get(base.__name__)
        if layout and base.__module__.startswith('mmdet.'):
            readers = ('load_data_list', 'parse_data_info')
            same = all(getattr(kind, name) is getattr(base, name) for name in readers)
            return layout if same else None
    return None


def existing_file(dataset: DataSet, layout: str) -> Path:
    """The annotation file of a data set.

    Args:
        layout: `COCO_LAYOUT` or `VOC_LAYOUT`.

    Raises:
        InputError: it does not exist; the message lists the files that do.
    """
    root, path = dataset.root, dataset.root / dataset.ann_file
    if not path.is_file():
        folder = path if root == Path() else root
        if not root.is_dir() or (root == Path() and not path.parent.is_dir()):
            year, has_year, _ = dataset.ann_file.partition('/ImageSets/')
            if layout == VOC_LAYOUT and has_year:  # in a VOCdevkit
                layout = f'{VOC_LAYOUT[:-2]}its folder {year}'
            raise missing_root(folder, layout, is_custom=bool(dataset.metainfo_classes))
        if not dataset.ann_file:
            raise InputError(
                f'{dataset.place}.ann_file is missing; give the annotation file ({layout}), '
                f'relative to {root}'
            )
        names = sorted(os.path.relpath(file, root) for file in path.parent.glob('*'))[:5]
        contents = first_few(names, 5) or 'no files'
        hint = f'{path.parent} has {contents}'
        if 'VOC2012' in path.parts and (root / 'VOC2007/ImageSets/Main/trainval.txt').is_file():
            hint = (
                f'{root} has only VOC2007: add VOC2012, or use a config or a study of that year '
                'alone, such as the config faster_rcnn_r50_cbam_voc07 or the study voc07_stairnet'
            )
        raise InputError(f'no annotation file {path} ({layout}); {hint}')
    return path


def missing_root(root: Path, layout: str, is_custom: bool) -> InputError:
    """The error for a data folder that does not exist, with remedies.

    Args:
        is_custom: the data set has its own classes, so it is neither COCO nor VOC.
    """
    where = '' if root.is_absolute() else f' below {Path.cwd()}'
    checkout = Path(__file__).resolve().parents[3] / root
    if checkout.is_dir():
        remedy = f'{checkout} exists: give --data-root {shlex.quote(str(checkout))}'
    elif digits_root := _digits_root(root):
        remedy = f'make it: {tool_command("make-digits", digits_root)}'
    elif root.name == 'BCCD':
        remedy = f'clone {BCCD}, and give its folder BCCD with --data-root'
    elif is_custom:
        remedy = "correct the data set's data_root, or give its folder with --data-root"
    else:
        source = (
            'cocodataset.org/#download'
            if layout == COCO_LAYOUT
            else 'host.robots.ox.ac.uk/pascal/VOC'
        )
        remedy = (
            f'download the data ({source}) and give its folder with --data-root, or run on the '
            f'embedded set: {tool_command("make-digits")}, then '
            'configs/faster_rcnn_r50_cbam_digits.py'
        )
    return InputError(f'no data folder {root}{where} ({layout}); {remedy}')


def _digits_root(root: Path) -> Path | None:
    """The folder to give to `make-digits` so that it makes `root`; None if it cannot."""
    for folder in (root, *root.parents):
        inner = root.relative_to(folder).parts
        if folder.name == 'digits' and inner == ('VOCdevkit', 'VOC2007')[: len(inner)]:
            return folder
    return None
