"""The two layouts of mmdet's data sets, and what to do where a file of them is missing."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

from ...utils.data_config import DataSet
from ...utils.environment import tool_command
from ...utils.errors import InputError, first_few

LAYOUTS: dict[str, Literal['coco', 'voc']] = {'CocoDataset': 'coco', 'XMLDataset': 'voc'}
COCO_LAYOUT = (
    'expected annotations/instances_train2017.json, annotations/instances_val2017.json, '
    'train2017/ and val2017/ in it'
)
VOC_LAYOUT = 'expected ImageSets/Main/, Annotations/ and JPEGImages/ in it'


def layout_of(dataset: DataSet) -> Literal['coco', 'voc'] | None:
    """The layout that a data set reads, as mmdet's CocoDataset or XMLDataset does; None where its
    class is neither of these, or reads its files in a way of its own.
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
        InputError: it is not there; the message shows what is.
    """
    root, path = dataset.root, dataset.root / dataset.ann_file
    if not path.is_file():
        folder = path if root == Path() else root
        if not root.is_dir() or (root == Path() and not path.parent.is_dir()):
            raise missing_root(folder, layout, is_custom=bool(dataset.metainfo_classes))
        names = sorted(str(file.relative_to(root)) for file in path.parent.glob('*'))[:5]
        contents = first_few(names, 5) or 'no files'
        hint = f'{path.parent} has {contents}'
        if 'VOC2012' in path.parts and (root / 'VOC2007/ImageSets/Main/trainval.txt').is_file():
            hint = (
                f'{root} has VOC2007 alone: add VOC2012, or take the config for that year, whose '
                'name ends in _voc07 (faster_rcnn_r50_cbam_voc07)'
            )
        raise InputError(f'no annotation file {path} ({layout}); {hint}')
    return path


def missing_root(root: Path, layout: str, is_custom: bool) -> InputError:
    """The error for a data folder that is not there, with the ways out.

    Args:
        is_custom: the data set has classes of its own, so that it is neither COCO nor VOC.
    """
    where = '' if root.is_absolute() else f' below {Path.cwd()}'
    checkout = Path(__file__).resolve().parents[3] / root
    if checkout.is_dir():
        remedy = f'it is there as {checkout}: give --data-root {shlex.quote(str(checkout))}'
    elif 'digits' in root.parts:
        digits_root = Path(*root.parts[: root.parts.index('digits') + 1])
        remedy = f'make it: {shlex.join([*tool_command("make-digits"), str(digits_root)])}'
    elif is_custom:
        remedy = "correct the data set's data_root, or name its folder with --data-root"
    else:
        source = (
            'cocodataset.org/#download'
            if layout == COCO_LAYOUT
            else 'host.robots.ox.ac.uk/pascal/VOC'
        )
        remedy = (
            f'get the data ({source}), name its folder with --data-root, or run on the embedded '
            f'set: {shlex.join(tool_command("make-digits"))}, then '
            'configs/faster_rcnn_r50_cbam_digits.py'
        )
    return InputError(f'no data folder {root}{where} ({layout}); {remedy}')
