"""Check that the classes and palettes of data sets fit the heads, metrics and visualizer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from mmengine.registry import DATASETS

from ...utils.config import detector_with_path, kind_of, registered_class, walk
from ...utils.data_config import leaf_datasets
from ...utils.errors import InputError, first_few
from ...utils.options import cfg_options
from ...utils.value_types import typed

# Keys of the heads that predict object classes. The `semantic_head` of HTC and SCNet predicts the
# classes of COCO's semantic maps instead, and an `rpn_head` always has one class.
HEADS = ('bbox_head', 'mask_head', 'mask_iou_head', 'point_head', 'glbctx_head', 'segm_head')
PANOPTIC_HEADS = ('panoptic_head', 'panoptic_fusion_head', 'semantic_head')


def check_metainfo(cfg: Config, split: str) -> None:
    """Check the metainfo of a split's data sets, and warn about an unusable palette.

    Args:
        split: 'train', 'val' or 'test'.

    Raises:
        InputError: concatenated data sets differ, or a head has another number of classes.
    """
    place = f'{split}_dataloader.dataset'
    dataset = cfg[f'{split}_dataloader'].dataset
    evaluator = cfg.get(f'{split}_evaluator')
    if not (isinstance(evaluator, dict) and kind_of(evaluator) == 'MultiDatasetsEvaluator'):
        for path, node in walk(dataset, place):
            if kind_of(node) == 'ConcatDataset':
                _check_concatenated_sets(node, path)
    model_path, model = detector_with_path(cfg) if cfg.get('model') else ('model', {})
    for _, metainfo in _metainfos(dataset, place):
        things = _names(metainfo, 'thing_classes') or _names(metainfo, 'classes')
        check_num_classes(model, things, _names(metainfo, 'stuff_classes'), model_path)
    if split != 'train' and (problem := palette_problem(cfg, split)):
        print_log(problem, level=logging.WARNING)


def _metainfos(dataset: dict, place: str) -> Iterator[tuple[str, dict]]:
    """The metainfo that each data set inside wrappers builds; {} if it cannot be built.

    VOCDataset adds the year of its folder, for example. Annotations are not read.
    """
    for path, leaf in leaf_datasets(dataset, place):
        kind = registered_class(DATASETS, leaf['type'])
        metainfo = {}
        if kind is not None and issubclass(kind, BaseDataset):
            options = {key: leaf[key] for key in leaf if key not in ('type', '_scope_')}
            with suppress(Exception):  # the run builds it again, and then reports the error
                metainfo = kind(**{**options, 'pipeline': [], 'lazy_init': True}).metainfo
        yield path, metainfo


def _names(metainfo: dict, key: str) -> tuple[str, ...]:
    names = metainfo.get(key)
    return tuple(names) if isinstance(names, (list, tuple)) else ()


def _check_concatenated_sets(node: dict, place: str) -> None:
    """Check that the data sets of a ConcatDataset have the same metainfo.

    Otherwise ConcatDataset's metainfo is a list, in which neither metrics nor `init_detector` of a
    checkpoint find the classes: https://github.com/open-mmlab/mmdetection/issues/8785. `classes.py`
    compares the classes.

    Raises:
        InputError: a key differs that is not in `ignore_keys`.
    """
    ignored = typed(node, 'ignore_keys', str | list[str] | None, place) or []
    ignored = [ignored] if isinstance(ignored, str) else list(ignored)
    metainfos = [metainfo for _, metainfo in _metainfos(node, place) if metainfo]
    differing = [
        key
        for key in dict.fromkeys(key for metainfo in metainfos for key in metainfo)
        if key not in (*ignored, 'classes')
        and any(metainfo.get(key) != metainfos[0].get(key) for metainfo in metainfos)
    ]
    if differing:
        names = ', '.join(f'metainfo.{key}' for key in differing)
        remedy = cfg_options({f'{place}.ignore_keys': [*ignored, *differing]})
        raise InputError(
            f'{place} joins data sets that differ in {names}, so neither metrics nor '
            f"mmdet's init_detector find the classes; give all the same value, or {remedy}"
        )


def palette_problem(cfg: Config, split: str) -> str | None:
    """Why mmdet cannot draw a split's classes with its palette, with a remedy; None if it can."""
    place = f'{split}_dataloader.dataset'
    for path, metainfo in _metainfos(cfg[f'{split}_dataloader'].dataset, place):
        palette, classes = metainfo.get('palette'), _names(metainfo, 'classes')
        problem = None
        if isinstance(palette, tuple) and any(isinstance(colour, tuple) for colour in palette):
            problem = 'is a tuple of colours, but mmdet needs a list'
        elif isinstance(palette, list) and len(palette) < len(classes):
            problem = f'has {len(palette)} colours for {len(classes)} classes'
        else:
            from mmdet.visualization.palette import get_palette  # data are checked without mmdet

            try:
                get_palette(palette, len(classes))
            except (AssertionError, TypeError) as error:
                problem = f'is {palette!r}, which mmdet rejects: {error}'
        if problem:
            return (
                f'{path}.metainfo.palette {problem}, so detections cannot be drawn; '
                f'give {cfg_options({f"{path}.metainfo.palette": "random"})}'
            )
    return None


def check_num_classes(
    model: dict, classes: tuple[str, ...], stuff: tuple[str, ...] = (), place: str = 'model'
) -> None:
    """Check the number of classes of a detector's heads.

    Detectors with a language model are skipped: their number is that of the text's tokens.

    Args:
        model: the config of the detector.
        classes: the object classes; () if they are unknown.
        stuff: the stuff classes of a panoptic data set.
        place: the key path of `model`, for the message.

    Raises:
        InputError: a head has another number of classes.
    """
    if 'language_model' in model or not classes:
        return
    wanted: dict[str, tuple[int, int]] = {}  # key path -> number in the config, right number
    for path, node in walk(model, place):
        keys = path.removeprefix(place).split('.')[1:]
        if 'num_classes' in node and _predicts_objects(keys):
            wanted[f'{path}.num_classes'] = node['num_classes'], len(classes)
        if len(keys) == 1 and keys[0] in PANOPTIC_HEADS:
            for key, names in (('num_things_classes', classes), ('num_stuff_classes', stuff)):
                if key in node:
                    wanted[f'{path}.{key}'] = node[key], len(names)
        if keys == ['panoptic_head', 'loss_cls']:
            _check_class_weights(path, node.get('class_weight'), len(classes + stuff))
    wrong = {path: pair for path, pair in wanted.items() if pair[0] != pair[1]}
    if wrong:
        path, (count, right) = next(iter(wrong.items()))
        is_stuff = path.endswith('num_stuff_classes')
        owner = 'stuff classes' if is_stuff else 'classes'
        examples = f' ({first_few(list(stuff if is_stuff else classes), 4)})' if right else ''
        remedy = cfg_options({path: right for path, (_, right) in wrong.items()})
        raise InputError(
            f'{path}={count}, but the data set has {right} {owner}{examples}; give {remedy}, or '
            "change the data set's metainfo"
        )


def _predicts_objects(keys: list[str]) -> bool:
    """Whether `num_classes` at these keys of a detector is the number of object classes.

    It is in a head, its module and its loss, and in mmyolo's assigners.
    """
    inside = keys[1:] if keys[:1] == ['roi_head'] else keys
    return bool(inside) and (
        inside[0] in HEADS or (keys[0] == 'train_cfg' and 'assigner' in keys[-1])
    )


def _check_class_weights(path: str, weights: object, count: int) -> None:
    if isinstance(weights, (list, tuple)) and len(weights) != count + 1:
        raise InputError(
            f'{path}.class_weight has {len(weights)} numbers for {count} classes and background; '
            f'give {path}.class_weight=[1.0] * {count} + [0.1] in the config'
        )
