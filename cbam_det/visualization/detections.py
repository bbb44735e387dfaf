"""Samples of a config's data, and a detector's boxes beside the ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
import torch
from matplotlib.figure import Figure
from mmdet.registry import DATASETS
from mmdet.structures.bbox import bbox_overlaps
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.dataset.base_dataset import BaseDataset
from rich.progress import track

from ..apis.inference import Predictor, check_matching_classes, read_image
from ..datasets.validation.config import check_data
from ..utils.errors import InputError
from ..utils.run_config import RunConfig
from .figures import BLUE, GREEN, ORANGE, Boxes, Cell, grid, sheet


def sample_page(cfg: Config, split: str = 'train', count: int = 12) -> Figure:
    """A page of `count` annotated images, evenly over the data set of `split`.

    Raises:
        InputError: the data cannot be used, or the config has no such split.
    """
    dataset = dataset_of(cfg, split)
    classes = dataset.metainfo['classes']
    cells = []
    for index in evenly_spaced(len(dataset), count):
        info = dataset.get_data_info(index)
        cells.append(Cell(read_image(info['img_path']), *_truth(info, classes)))
    return sheet(grid(cells, 4))


def detection_page(predictor: Predictor, count: int = 6, score: float = 0.5) -> Figure:
    """Ground truth above, detections below: true positives green, false ones orange.

    A detection is true where it has the class and IoU >= 0.5 with an object that no detection of
    higher score has taken.

    Args:
        predictor: a detector; its test data are shown.
        count: images, evenly over the data set.
        score: detections below it are left out, 0 to 1.

    Raises:
        InputError: the data cannot be used.
    """
    dataset = dataset_of(predictor.cfg, 'test')
    classes = dataset.metainfo['classes']
    truth_cells, detection_cells = [], []
    for index in track(evenly_spaced(len(dataset), count), 'detecting', transient=True):
        info = dataset.get_data_info(index)
        image = read_image(info['img_path'])
        truth_cells.append(Cell(image, *_truth(info, classes)))
        boxes, counts = _detected(predictor, dataset, index, score)
        detection_cells.append(Cell(image, boxes, counts))
    rows = [
        row
        for pair in zip(grid(truth_cells, 6), grid(detection_cells, 6), strict=True)
        for row in pair
    ]
    return sheet(rows, _legend(score))


def side_by_side(predictors: Sequence[Predictor], count: int = 6, score: float = 0.3) -> Figure:
    """A row for each picture: ground truth, then what each detector finds, as in `detection_page`.

    Args:
        predictors: detectors; the test data of the first are shown.
        count: images, evenly over the data set.
        score: detections below it are left out, 0 to 1.

    Raises:
        InputError: the data cannot be used, or the detectors know other classes.
    """
    check_matching_classes(predictors)
    datasets = [dataset_of(predictor.cfg, 'test') for predictor in predictors]
    rows = []
    for index in track(evenly_spaced(len(datasets[0]), count), 'detecting', transient=True):
        info = datasets[0].get_data_info(index)
        image = read_image(info['img_path'])
        boxes, _ = _truth(info, datasets[0].metainfo['classes'])
        row = [Cell(image, boxes, fill(Path(info['img_path']).name, 34))]
        for predictor, dataset in zip(predictors, datasets, strict=True):
            boxes, counts = _detected(predictor, dataset, index, score)
            row.append(Cell(image, boxes, f'{fill(predictor.name, 34)}\n{counts}'))
        rows.append(row)
    return sheet(rows, _legend(score))


def _legend(score: float) -> dict[str, str]:
    return {
        'ground truth': BLUE,
        'correct (class, IoU ≥ 0.5)': GREEN,
        f'false (score ≥ {score:g})': ORANGE,
    }


def _detected(
    predictor: Predictor, dataset: BaseDataset, index: int, score: float
) -> tuple[Boxes, str]:
    """The detections in an image of a data set, and how many are right, wrong and missed."""
    info, classes = dataset.get_data_info(index), dataset.metainfo['classes']
    with torch.no_grad():
        result = predictor.model.test_step(pseudo_collate([dataset[index]]))[0].pred_instances
    result = result[result.scores >= score].numpy()
    matches = match_detections(info, result.bboxes, result.labels, result.scores)
    correct = [match is not None for match in matches]
    captions = [
        f'{classes[label]} {value:.2f}'
        for label, value in zip(result.labels, result.scores, strict=True)
    ]
    colours = [GREEN if is_correct else ORANGE for is_correct in correct]
    missed = sum(not item.get('ignore_flag') for item in info['instances']) - sum(correct)
    counts = f'{sum(correct)} correct, {len(correct) - sum(correct)} false, {missed} missed'
    return Boxes(result.bboxes, captions, colours), counts


def match_detections(
    info: dict, boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray
) -> list[int | None]:
    """The object that each detection (n of each argument) finds at IoU 0.5, as its index among
    those of `info['instances']` that are not to be ignored; None for a false positive.
    """
    objects = [item for item in info['instances'] if not item.get('ignore_flag')]
    taken: set[int] = set()
    matches: list[int | None] = [None] * len(boxes)
    if not objects or not len(boxes):
        return matches
    targets = torch.tensor([item['bbox'] for item in objects], dtype=torch.float32)
    overlaps = bbox_overlaps(torch.as_tensor(boxes), targets).numpy()
    for index in np.argsort(-scores, kind='stable'):
        for candidate in np.argsort(-overlaps[index], kind='stable'):
            if overlaps[index, candidate] < 0.5:
                break
            if candidate not in taken and objects[candidate]['bbox_label'] == labels[index]:
                taken.add(candidate)
                matches[index] = int(candidate)
                break
    return matches


def dataset_of(cfg: Config, split: str) -> BaseDataset:
    """The data set of 'train', 'val' or 'test' in a config.

    Raises:
        InputError: the config has none, or the data cannot be used.
    """
    run = RunConfig.from_cfg(cfg)
    if split not in run.splits:
        raise InputError(f'{cfg.filename} has no {split}_dataloader; choose another --split')
    check_data(run, (split,))
    return DATASETS.build(cfg[f'{split}_dataloader'].dataset)


def evenly_spaced(total: int, count: int) -> list[int]:
    """At most `count` of 0 to `total` - 1, evenly; InputError where `count` is below 1."""
    if count < 1:
        raise InputError(f'--count {count} shows nothing; use 1 or more')
    return [int(index) for index in np.linspace(0, total - 1, min(count, total))]


def _truth(info: dict, classes: tuple[str, ...]) -> tuple[Boxes, str]:
    items = info['instances']
    boxes = np.array([item['bbox'] for item in items]).reshape(-1, 4)
    captions = [classes[item['bbox_label']] for item in items]
    return Boxes(boxes, captions, [BLUE] * len(items)), f'{info["img_id"]}'
