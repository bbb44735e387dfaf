"""Pages of annotated samples, and of a detector's boxes with the ground truth."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
from mmengine.structures import InstanceData
from rich.progress import track

from ..apis.inference import Predictor, check_matching_classes, read_image, transforms_of_test
from ..datasets.validation.config import check_data
from ..utils.build_errors import build_errors
from ..utils.errors import InputError
from ..utils.run_config import RunConfig
from .figures import BLUE, GREEN, MISSED, ORANGE, Boxes, Cell, grid, sheet


@dataclass
class Detections:
    """n detections in an image.

    Attributes:
        boxes: (n, 4) as x1, y1, x2, y2 in pixels of the image.
        labels: (n,) numbers of the classes.
        scores: (n,) from 0 to 1.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, instances: InstanceData, score: float) -> Detections:
        """Those of mmdet's `pred_instances` with this score or a higher one."""
        kept = instances.scores >= score
        boxes = getattr(instances.bboxes, 'tensor', instances.bboxes)[kept]
        scores = instances.scores[kept]
        # NumPy has no bfloat16, which mixed precision may give.
        numbers = (boxes.float(), instances.labels[kept], scores.float())
        return cls(*(part.detach().cpu().numpy() for part in numbers))


def sample_page(cfg: Config, split: str = 'train', count: int = 12) -> Figure:
    """Show `count` annotated images, evenly spaced over the data set of `split`.

    Raises:
        InputError: the data cannot be used, or the config has no such split.
    """
    dataset = dataset_with_boxes(cfg, split)
    classes = dataset.metainfo['classes']
    cells = []
    for index in evenly_spaced(len(dataset), count):
        info = dataset.get_data_info(index)
        cells.append(Cell(read_image(info['img_path']), *_truth(info, classes)))
    return sheet(grid(cells, 4))


def detection_page(predictor: Predictor, count: int = 6, score: float = 0.3) -> Figure:
    """Show ground truth (above) and detections (below) of test images.

    A detection is correct if it has the class of an object and an IoU of at least 0.5 with it, and
    no detection with a higher score was matched to this object. Correct detections are green, false
    ones orange; missed objects are drawn with dashed boxes.

    Args:
        predictor: a detector; the images are from its test data.
        count: number of images, evenly spaced over the data set.
        score: detections with a lower score are not shown, 0 to 1.

    Raises:
        InputError: the data cannot be used, or have other classes than the detector.
    """
    dataset = dataset_with_boxes(predictor.cfg, 'test')
    check_matching_classes([predictor], dataset.metainfo['classes'])
    indices = track(evenly_spaced(len(dataset), count), 'detecting', transient=True)
    images = (
        (dataset.get_data_info(index), _detect(predictor, dataset, index, score))
        for index in indices
    )
    return truth_and_detections(images, dataset.metainfo['classes'], score)


def truth_and_detections(
    images: Iterable[tuple[dict, Detections]], classes: Sequence[str], score: float
) -> Figure:
    """The figure of `detection_page`.

    Args:
        images: the info of each from mmdet's `get_data_info`, and the detections in it.
        classes: their names.
        score: the lowest of the detections, for the legend.
    """
    truth_cells, detection_cells = [], []
    for info, detections in images:
        image = read_image(info['img_path'])
        truth_cells.append(Cell(image, *_truth(info, classes)))
        detection_cells.append(Cell(image, *_judged(info, classes, detections)))
    rows = [
        row
        for pair in zip(grid(truth_cells, 6), grid(detection_cells, 6), strict=True)
        for row in pair
    ]
    return sheet(rows, _legend(score))


def side_by_side(predictors: Sequence[Predictor], count: int = 6, score: float = 0.3) -> Figure:
    """Show test images in rows: ground truth, then the detections of each detector.

    The colours are those of `detection_page`.

    Args:
        predictors: detectors; the images are from the test data of the first.
        count: number of images, evenly spaced over the data set.
        score: detections with a lower score are not shown, 0 to 1.

    Raises:
        InputError: the data cannot be used, or the classes of detectors and data differ.
    """
    check_matching_classes(predictors)
    datasets = [dataset_with_boxes(predictor.cfg, 'test') for predictor in predictors]
    for predictor, dataset in zip(predictors, datasets, strict=True):
        check_matching_classes([predictor], dataset.metainfo['classes'])
    rows = []
    for index in track(evenly_spaced(len(datasets[0]), count), 'detecting', transient=True):
        info = datasets[0].get_data_info(index)
        image = read_image(info['img_path'])
        boxes, _ = _truth(info, datasets[0].metainfo['classes'])
        row = [Cell(image, boxes, fill(Path(info['img_path']).name, 34))]
        for predictor, dataset in zip(predictors, datasets, strict=True):
            detections = _detect(predictor, dataset, index, score)
            own_info = dataset.get_data_info(index)
            boxes, counts = _judged(own_info, dataset.metainfo['classes'], detections)
            row.append(Cell(image, boxes, f'{fill(predictor.name, 34)}\n{counts}'))
        rows.append(row)
    return sheet(rows, _legend(score))


def _legend(score: float) -> dict[str, str]:
    return {
        'ground truth': BLUE,
        'correct (class, IoU ≥ 0.5)': GREEN,
        f'false (score ≥ {score:g})': ORANGE,
        'missed object': MISSED,
    }


def _detect(predictor: Predictor, dataset: BaseDataset, index: int, score: float) -> Detections:
    with torch.no_grad():
        result = predictor.model.test_step(pseudo_collate([dataset[index]]))[0]
    return Detections.of(result.pred_instances, score)


def _judged(info: dict, classes: Sequence[str], result: Detections) -> tuple[Boxes, str]:
    """The boxes of an image of a data set, and the numbers of correct, false and missed ones."""
    matches = match_detections(info, result.boxes, result.labels, result.scores)
    correct = [match is not None for match in matches]
    captions = [
        f'{classes[label]} {value:.2f}'
        for label, value in zip(result.labels, result.scores, strict=True)
    ]
    colours = [GREEN if is_correct else ORANGE for is_correct in correct]
    missed = [item for number, item in enumerate(scored_objects(info)) if number not in matches]
    boxes = Boxes(
        np.array([*result.boxes, *(item['bbox'] for item in missed)]).reshape(-1, 4),
        [*captions, *(classes[item['bbox_label']] for item in missed)],
        [*colours, *[MISSED] * len(missed)],
    )
    counts = f'{sum(correct)} correct, {len(correct) - sum(correct)} false, {len(missed)} missed'
    return boxes, counts


def scored_objects(info: dict) -> list[dict]:
    """The objects of an image, from mmdet's `get_data_info`, without those that are ignored."""
    return [item for item in info['instances'] if not item.get('ignore_flag')]


def match_detections(
    info: dict, boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray
) -> list[int | None]:
    """Match n detections to the objects of an image with an IoU of at least 0.5.

    Returns:
        For each detection the index of its object in `scored_objects`; None for a false positive.
    """
    objects = scored_objects(info)
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


def dataset_of(cfg: Config, split: str, augmented: bool = True) -> BaseDataset:
    """Build the data set of the split 'train', 'val' or 'test' of a config.

    Args:
        cfg: the config.
        split: the split.
        augmented: whether training images are those of a training, or each image once, unfiltered
            and with the test pipeline.

    Raises:
        InputError: the config has no such split, or the data cannot be used.
    """
    run = RunConfig.from_cfg(cfg)
    if split not in run.splits:
        raise InputError(f'{cfg.filename} has no {split}_dataloader; give a config that has one')
    check_data(run, (split,))
    key = f'{split}_dataloader'
    # pycocotools prints its progress.
    with build_errors(cfg, key), contextlib.redirect_stdout(io.StringIO()):
        if split == 'train' and not augmented:
            return DATASETS.build(_as_tested(cfg[key].dataset, transforms_of_test(cfg)))
        return DATASETS.build(cfg[key].dataset)


def _as_tested(node: dict, pipeline: list[dict]) -> dict:
    """A data set of a config for tests, without wrappers such as RepeatDataset."""
    if 'datasets' in node:
        return {**node, 'datasets': [_as_tested(inner, pipeline) for inner in node['datasets']]}
    if 'dataset' in node:
        return _as_tested(node['dataset'], pipeline)
    return {**node, 'pipeline': pipeline, 'test_mode': True, 'filter_cfg': None}


def dataset_with_boxes(cfg: Config, split: str, augmented: bool = True) -> BaseDataset:
    """`dataset_of`, for what shows or measures boxes.

    Raises:
        InputError: see `dataset_of`; or the images have classes, not boxes.
    """
    dataset = dataset_of(cfg, split, augmented)
    if 'instances' not in dataset.get_data_info(0):
        raise InputError(
            f'the {split} data of {cfg.filename} are for a classifier and have no boxes; give the '
            'config of a detector'
        )
    return dataset


def evenly_spaced(total: int, count: int) -> list[int]:
    """`count` evenly spaced numbers from 0 to `total` - 1; InputError if `count` is below 1."""
    if count < 1:
        raise InputError(f'--count {count} is too small; give 1 or more')
    return [int(index) for index in np.linspace(0, total - 1, min(count, total))]


def _truth(info: dict, classes: Sequence[str]) -> tuple[Boxes, str]:
    items = info['instances']
    boxes = np.array([item['bbox'] for item in items]).reshape(-1, 4)
    captions = [classes[item['bbox_label']] for item in items]
    return Boxes(boxes, captions, [BLUE] * len(items)), fill(Path(info['img_path']).name, 34)
