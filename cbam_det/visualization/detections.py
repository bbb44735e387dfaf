"""Pages of annotated samples, and of a detector's boxes with the ground truth."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from mmdet.registry import DATASETS
from mmdet.structures.bbox import bbox_overlaps
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.dataset.base_dataset import BaseDataset
from rich.progress import track

from ..apis.inference import Predictor, read_image
from ..datasets.validation.config import check_data
from ..utils.errors import InputError
from ..utils.run_config import RunConfig
from .figures import BLUE, GREEN, MISSED, ORANGE, Boxes, Cell, grid, sheet


def sample_page(cfg: Config, split: str = 'train', count: int = 12) -> Figure:
    """Show `count` annotated images, evenly spaced over the data set of `split`.

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
    """Show ground truth (above) and detections (below) of test images.

    A detection is correct if it has the class of an object and an IoU of at least 0.5 with it, and
    no detection with a higher score was matched to this object. Correct detections are green, false
    ones orange; missed objects are drawn with dashed boxes.

    Args:
        predictor: a detector; the images are from its test data.
        count: number of images, evenly spaced over the data set.
        score: detections with a lower score are not shown, 0 to 1.

    Raises:
        InputError: the data cannot be used.
    """
    dataset = dataset_of(predictor.cfg, 'test')
    classes = dataset.metainfo['classes']
    truth_cells, detection_cells = [], []
    for index in track(evenly_spaced(len(dataset), count), 'detecting', transient=True):
        info = dataset.get_data_info(index)
        image = read_image(info['img_path'])
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
        truth_cells.append(Cell(image, *_truth(info, classes)))
        objects = [item for item in info['instances'] if not item.get('ignore_flag')]
        missed = [item for index, item in enumerate(objects) if index not in matches]
        boxes = Boxes(
            np.array([*result.bboxes, *(item['bbox'] for item in missed)]).reshape(-1, 4),
            [*captions, *(classes[item['bbox_label']] for item in missed)],
            [*colours, *[MISSED] * len(missed)],
        )
        title = f'{sum(correct)} correct, {len(correct) - sum(correct)} false, {len(missed)} missed'
        detection_cells.append(Cell(image, boxes, title))
    rows = [
        row
        for pair in zip(grid(truth_cells, 6), grid(detection_cells, 6), strict=True)
        for row in pair
    ]
    legend = {
        'ground truth': BLUE,
        'correct (class, IoU ≥ 0.5)': GREEN,
        f'false (score ≥ {score:g})': ORANGE,
        'missed object': MISSED,
    }
    return sheet(rows, legend)


def match_detections(
    info: dict, boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray
) -> list[int | None]:
    """Match n detections to the objects of an image with an IoU of at least 0.5.

    Returns:
        For each detection the index of its object among those of `info['instances']` that are not
        ignored; None for a false positive.
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
    """Build the data set of the split 'train', 'val' or 'test' of a config.

    Raises:
        InputError: the config has no such split, or the data cannot be used.
    """
    run = RunConfig.from_cfg(cfg)
    if split not in run.splits:
        raise InputError(f'{cfg.filename} has no {split}_dataloader; choose another --split')
    check_data(run, (split,))
    return DATASETS.build(cfg[f'{split}_dataloader'].dataset)


def evenly_spaced(total: int, count: int) -> list[int]:
    """`count` evenly spaced numbers from 0 to `total` - 1; InputError if `count` is below 1."""
    if count < 1:
        raise InputError(f'--count {count} is too small; give 1 or more')
    return [int(index) for index in np.linspace(0, total - 1, min(count, total))]


def _truth(info: dict, classes: tuple[str, ...]) -> tuple[Boxes, str]:
    items = info['instances']
    boxes = np.array([item['bbox'] for item in items]).reshape(-1, 4)
    captions = [classes[item['bbox_label']] for item in items]
    return Boxes(boxes, captions, [BLUE] * len(items)), f'{info["img_id"]}'
