"""Whether the evaluators of a config speak of the images and boxes of its loaders."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from mmdet.datasets import CocoDataset, XMLDataset

from ...utils.config import kind_of, walk
from ...utils.errors import InputError, first_few
from ...utils.options import cfg_options
from ...utils.run_config import DataSet, Evaluator, Split
from .dataset import reads_as
from .voc import read_list

COCO_METRICS = ('CocoMetric', 'FastCocoMetric')


class Truth(NamedTuple):
    """What an evaluator compares detections with, by the ids of the images."""

    images: frozenset
    boxes: Counter


def check_evaluators(split: Split, model: dict) -> None:
    """Check the evaluators of a split.

    Args:
        model: the config of the detector.

    Raises:
        InputError: an annotation file of theirs is missing, or lists other images or boxes than the
            loader reads; masks are to be evaluated of a model that predicts none.
    """
    for evaluator in split.evaluators:
        _check_masks(evaluator, model)
        file = evaluator.ann_file
        if not isinstance(file, str) or '://' in file:
            if evaluator.kind in COCO_METRICS and len(split.data_sets) > 1:
                _check_ids(split, evaluator)
            continue
        if not Path(file).is_file():
            ways = f'name the annotation file that the data set of {split.name}_dataloader reads'
            if len(split.data_sets) == 1:
                read = str(split.data_sets[0].root / split.data_sets[0].ann_file)
                ways += f': {cfg_options({f"{evaluator.place}.ann_file": read})}'
            raise InputError(f'{evaluator.place}.ann_file={file!r} is not there; {ways}')
        _check_file(split, evaluator, Path(file))


def _check_masks(evaluator: Evaluator, model: dict) -> None:
    if 'segm' not in evaluator.metrics or evaluator.kind not in COCO_METRICS:
        return
    for path, node in walk(model):
        if 'mask' in path or 'segm' in path or any(x in kind_of(node) for x in ('Mask', 'Ins')):
            return
    raise InputError(
        f"{evaluator.place}.metric has 'segm', but the model predicts no masks; give "
        f'{evaluator.place}.metric=bbox, or a model with a mask_head'
    )


def _check_file(split: Split, evaluator: Evaluator, file: Path) -> None:
    """Compare an evaluator's file with what the loader reads."""
    data_sets = split.data_sets
    if evaluator.number is not None and len(data_sets) > evaluator.number:
        data_sets = data_sets[evaluator.number : evaluator.number + 1]  # each has its own
    if not all(dataset.local and _known(dataset) for dataset in data_sets):
        return
    files = [dataset.root / dataset.ann_file for dataset in data_sets]
    named = f'{evaluator.place}.ann_file={str(file)!r}'
    loader = f'{split.name}_dataloader'
    if len(files) > 1:
        raise InputError(
            f'{named}, but {loader} reads {len(files)} files ({first_few(list(map(str, files)))}); '
            'join them in one file, or give each its evaluator by a MultiDatasetsEvaluator'
        )
    (dataset,) = data_sets
    if dataset.indices is not None:
        raise InputError(
            f'{named} is evaluated as a whole, but {loader} reads a part of it '
            f'(indices={dataset.indices}); leave indices out, or write a file of these images'
        )
    if files[0].resolve() == file.resolve() or not files[0].is_file():
        return
    if _known(dataset) is CocoDataset:
        if files[0].read_bytes() == file.read_bytes():
            return
        read = _truth(files[0])
    else:
        read = Truth(frozenset(read_list(files[0])), Counter())
    theirs = _truth(file)
    if read is None or theirs is None:
        return  # no COCO JSON, which is said elsewhere
    if theirs.images != read.images:
        other = sorted(map(str, theirs.images ^ read.images))
        what = (
            f'other images ({len(theirs.images)}, not {len(read.images)}; {first_few(other)} in one'
        )
        what += ' of them alone)'
    elif _known(dataset) is CocoDataset and theirs.boxes != read.boxes:
        count = ((theirs.boxes - read.boxes) + (read.boxes - theirs.boxes)).total()
        what = f'other boxes ({count} are in one of them alone)'
    else:
        return
    raise InputError(
        f'{named} has {what} than {files[0]}, which {loader} reads; give '
        f'{cfg_options({f"{evaluator.place}.ann_file": str(files[0])})}'
    )


def _check_ids(split: Split, evaluator: Evaluator) -> None:
    """Images of several data sets are told apart by their ids alone."""
    seen: dict[object, Path] = {}
    for dataset in split.data_sets:
        file = dataset.root / dataset.ann_file
        if not (dataset.local and _known(dataset) and file.is_file()):
            return
        truth = _truth(file) if _known(dataset) is CocoDataset else None
        for image in truth.images if truth else read_list(file):
            if image in seen:
                raise InputError(
                    f'{split.name}_dataloader joins {seen[image]} and {file}, which both have the '
                    f'image {image!r}, and {evaluator.place} takes both for one image; number '
                    'the images of one file anew, or evaluate each by a MultiDatasetsEvaluator'
                )
        seen.update(dict.fromkeys(truth.images if truth else read_list(file), file))


def _known(dataset: DataSet) -> type | None:
    for base in (CocoDataset, XMLDataset):
        if dataset.kind is not None and reads_as(dataset.kind, base):
            return base
    return None


def _truth(file: Path) -> Truth | None:
    """The images and boxes of a COCO file; None where it is none."""
    try:
        content = json.loads(file.read_bytes())
        names = {one['id']: one['name'] for one in content.get('categories', ())}
        images = frozenset(one['id'] for one in content['images'])
        boxes = Counter(
            (one['image_id'], names.get(one['category_id']), *map(float, one['bbox']))
            + (bool(one.get('iscrowd')),)
            for one in content.get('annotations', ())
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return Truth(images, boxes)


def check_same_classes(classes: dict[str, tuple[str, ...]]) -> None:
    """Check that all data sets of a config, and its weights, number the same classes alike.

    Args:
        classes: of each, by what it is; () where they are unknown.

    Raises:
        InputError: two differ.
    """
    known = {what: names for what, names in classes.items() if names}
    first = next(iter(known), '')
    for what, names in known.items():
        if names != known[first]:
            raise InputError(
                f'{what} has the classes {first_few(list(names), 5)}, but {first} '
                f'{first_few(list(known[first]), 5)}: a label would be called by another name, and '
                'scored as another class; give both the same metainfo.classes, in one order'
            )
