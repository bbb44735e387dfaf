"""Check the semantic maps of a COCO data set: they exist, and the model has their classes.

Without this, the first iteration ends in an error that names no key, or on a GPU in an assertion of
CUDA (https://github.com/open-mmlab/mmdetection/issues/2020).
"""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config

from ...utils.config import kind_of, walk
from ...utils.data_config import DataSet, Transform
from ...utils.errors import InputError, first_few
from ...utils.options import cfg_options
from .content import Content
from .pipeline import loads_annotations
from .voc import check_folder

MOST_READ = 16  # maps of a data set, as a map of many classes takes as long to read as an image
COCO_STUFF_CLASSES = 183  # the default of mmdet's FusedSemanticHead


def check_maps(cfg: Config, dataset: DataSet, content: Content) -> None:
    """Check that all semantic maps exist, and the values of `MOST_READ` of them.

    Raises:
        InputError: a map is missing, cannot be read or has several channels, or a value in it is
            not a class of the semantic head.
    """
    loaders = [step for step in dataset.pipeline if loads_annotations(step)]
    loader = next((step for step in loaders if step.options.get('with_seg')), None)
    if loader is None or content.is_voc:
        return
    folder = dataset.root / (dataset.prefixes.get('seg') or '')
    key = f'{dataset.place}.data_prefix.seg'
    check_folder(folder, f'the semantic maps of {content.file}', key)
    leaves_out = dataset.filter_cfg.get('filter_empty_gt') and not dataset.test_mode
    files = [
        folder / f'{raw["file_name"].rsplit(".", 1)[0]}{dataset.map_suffix}'
        for raw, image in zip(content.raw['images'], content.images, strict=True)
        if image.objects or not leaves_out
    ]
    missing = [str(file) for file in files if not os.path.isfile(file)]
    if missing:
        raise InputError(
            f'{len(missing)} of {len(files)} semantic maps of {content.file} are missing: '
            f'{first_few(missing)}; restore them, or give another folder as {key}'
        )
    heads = [
        (path, node)
        for path, node in walk(cfg.get('model'), 'model')
        if kind_of(node) in ('FusedSemanticHead', 'SCNetSemanticHead')
    ]
    for file in files[:: len(files) // MOST_READ + 1] if heads else ():
        values = _values(file, loader)
        for path, node in heads:
            _check_values(file, values, path, node)


def _values(file: Path, loader: Transform) -> set[int]:
    """The values of a map, as mmdet's LoadAnnotations reads it."""
    data = np.frombuffer(file.read_bytes(), np.uint8)
    array = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if array is None or array.squeeze().ndim != 2:
        problem = 'cannot be decoded' if array is None else f'has {array.shape[2]} channels'
        raise InputError(
            f'the semantic map {file} {problem}; save it as an image of one channel, whose values '
            'are the numbers of the classes'
        )
    values = set(np.unique(array).tolist())
    if loader.options.get('reduce_zero_label'):
        ignored = loader.options.get('ignore_index', 255)
        values = {ignored if value in (0, ignored) else value - 1 for value in values}
    return values


def _check_values(file: Path, values: set[int], path: str, head: dict) -> None:
    count = head.get('num_classes', COCO_STUFF_CLASSES)
    ignored = head.get('ignore_label') or (head.get('loss_seg') or {}).get('ignore_index', 255)
    unknown = sorted(value for value in values if value >= count and value != ignored)
    if unknown:
        raise InputError(
            f'{path}.num_classes={count}, but the semantic map {file} has the value {unknown[-1]}; '
            f'give {cfg_options({f"{path}.num_classes": unknown[-1] + 1})}, or {path}.ignore_label '
            'if this value is not a class'
        )
