"""Check that evaluators use the same images and boxes as the dataloaders."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from ...utils.errors import InputError, first_few
from ...utils.options import cfg_options
from ...utils.run_config import ModelConfig
from ...utils.split_config import Evaluator, Split
from .config_layout import layout_of
from .voc import read_list


class Truth(NamedTuple):
    """The ground truth of an evaluator: image ids and boxes."""

    images: frozenset
    boxes: Counter


def check_evaluators(split: Split, model: ModelConfig) -> None:
    """Check the evaluators of a split.

    Args:
        model: the config's detector.

    Raises:
        InputError: an evaluator's annotation file is missing, or lists other images or boxes than
            the dataloader reads; its folder of segmentation maps is missing; or a metric evaluates
            masks but the model predicts none.
    """
    for evaluator in split.evaluators:
        _check_masks(evaluator, model)
        _check_maps(evaluator)
        file = evaluator.ann_file
        if file is None or not evaluator.is_local:
            if evaluator.is_coco and len(split.data_sets) > 1:
                _check_ids(split, evaluator)
            continue
        if not Path(file).is_file():
            remedy = f'give the annotation file that the data set of {split.name}_dataloader reads'
            if len(split.data_sets) == 1 and split.data_sets[0].is_local:
                loader_file = str(split.data_sets[0].root / split.data_sets[0].ann_file)
                remedy += f': {cfg_options({f"{evaluator.place}.ann_file": loader_file})}'
            raise InputError(f'{evaluator.place}.ann_file={file!r} does not exist; {remedy}')
        _check_file(split, evaluator, Path(file))


def _check_masks(evaluator: Evaluator, model: ModelConfig) -> None:
    if 'segm' in evaluator.metrics and evaluator.is_coco and not model.predicts_masks:
        raise InputError(
            f"{evaluator.place}.metric has 'segm', but the model predicts no masks; give "
            f'{evaluator.place}.metric=bbox, or a model with a mask_head'
        )


def _check_maps(evaluator: Evaluator) -> None:
    folder = evaluator.seg_prefix
    if folder is None or not evaluator.is_local or evaluator.format_only:
        return
    if not Path(folder).is_dir():
        raise InputError(
            f'{evaluator.place}.seg_prefix={folder!r} is not a folder; give the folder of the '
            f'segmentation maps: {cfg_options({f"{evaluator.place}.seg_prefix": "FOLDER/"})}'
        )


def _check_file(split: Split, evaluator: Evaluator, file: Path) -> None:
    """Compare an evaluator's annotation file with what the dataloader reads."""
    data_sets = split.data_sets
    if evaluator.dataset_index is not None and len(data_sets) > evaluator.dataset_index:
        # A MultiDatasetsEvaluator has an evaluator for each data set.
        data_sets = (data_sets[evaluator.dataset_index],)
    if not all(dataset.is_local and layout_of(dataset) for dataset in data_sets):
        return
    files = [dataset.root / dataset.ann_file for dataset in data_sets]
    option = f'{evaluator.place}.ann_file={str(file)!r}'
    loader = f'{split.name}_dataloader'
    if len(files) > 1:
        raise InputError(
            f'{option}, but {loader} reads {len(files)} files '
            f'({first_few(list(map(str, files)))}); join them in one file, or give each data set '
            'its own evaluator in a MultiDatasetsEvaluator'
        )
    (dataset,) = data_sets
    if dataset.indices is not None:
        raise InputError(
            f'{option} is evaluated as a whole, but {loader} reads only a part of it '
            f'(indices={dataset.indices}); leave indices out, or write a file with only these '
            'images'
        )
    if files[0].resolve() == file.resolve() or not files[0].is_file():
        return
    if layout_of(dataset) == 'coco':
        if files[0].read_bytes() == file.read_bytes():
            return
        loader_truth = _read_truth(files[0])
    else:
        loader_truth = Truth(frozenset(read_list(files[0])), Counter())
    evaluator_truth = _read_truth(file)
    if loader_truth is None or evaluator_truth is None:
        return  # not a COCO file, which the check of the data set reports
    if evaluator_truth.images != loader_truth.images:
        differing = sorted(map(str, evaluator_truth.images ^ loader_truth.images))
        difference = (
            f'other images ({len(evaluator_truth.images)}, not {len(loader_truth.images)}; '
            f'{first_few(differing)} in only one of them)'
        )
    elif layout_of(dataset) == 'coco' and evaluator_truth.boxes != loader_truth.boxes:
        count = (evaluator_truth.boxes - loader_truth.boxes).total()
        count += (loader_truth.boxes - evaluator_truth.boxes).total()
        difference = f'other boxes ({count} are in only one of them)'
    else:
        return
    raise InputError(
        f'{option} has {difference} than {files[0]}, which {loader} reads; give '
        f'{cfg_options({f"{evaluator.place}.ann_file": str(files[0])})}'
    )


def _check_ids(split: Split, evaluator: Evaluator) -> None:
    """Raise InputError if two data sets of a loader have the same image id."""
    file_of_image: dict[object, Path] = {}
    for dataset in split.data_sets:
        file = dataset.root / dataset.ann_file
        if not (dataset.is_local and layout_of(dataset) and file.is_file()):
            return
        images: Collection
        if layout_of(dataset) == 'voc':
            images = read_list(file)
        else:
            truth = _read_truth(file)
            images = truth.images if truth else ()
        for image in images:
            if image in file_of_image:
                raise InputError(
                    f'{split.name}_dataloader joins {file_of_image[image]} and {file}, which both '
                    f'have the image id {image!r}, so {evaluator.place} would treat them as one '
                    'image; renumber the images of one file, or give each data set its own '
                    'evaluator in a MultiDatasetsEvaluator'
                )
        file_of_image.update(dict.fromkeys(images, file))


def _read_truth(file: Path) -> Truth | None:
    """The images and boxes of a COCO file; None if it is not a COCO file."""
    try:
        content = json.loads(file.read_bytes())
        class_names = {entry['id']: entry['name'] for entry in content.get('categories', ())}
        images = frozenset(entry['id'] for entry in content['images'])
        boxes = Counter(
            (entry['image_id'], class_names.get(entry['category_id']), *map(float, entry['bbox']))
            + (bool(entry.get('iscrowd')),)
            for entry in content.get('annotations', ())
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return Truth(images, boxes)
