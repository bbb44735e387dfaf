"""Precision-recall curves of detectors by class, with the matching of COCO (pycocotools)."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from mmengine.dataset import pseudo_collate
from mmengine.dataset.base_dataset import BaseDataset
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.progress import track

from ..apis.inference import Predictor, check_matching_classes, unique_name
from ..utils.errors import InputError
from .detections import dataset_with_boxes
from .figures import CYCLE, STYLE

PANELS = 24  # maximum number on a page


class Precision(NamedTuple):
    """A panel of `precisions`: by model (2, 101), precision at IoU 0.5 and 0.75 over recall."""

    title: str
    lines: dict[str, np.ndarray]


def precision_page(predictors: Sequence[Predictor], split: str = 'test') -> Figure:
    """Plot precision over recall: the mean over all classes, then each class.

    Lines are solid for IoU 0.5 and dashed for 0.75, with a colour for each model. If there are many
    classes, those with the most objects are shown; if there is one, it gets the only panel.

    Args:
        predictors: detectors with the same classes; the data are those of the first.
        split: 'train', 'val' or 'test'.

    Raises:
        InputError: the data cannot be used, no object is annotated, or the classes differ.
    """
    first = predictors[0]
    dataset = dataset_with_boxes(first.cfg, split, augmented=False)
    classes = dataset.metainfo['classes']
    check_matching_classes(predictors, classes)
    truth = ground_truth(dataset)
    counts = np.bincount(
        [
            annotation['category_id']
            for annotation in truth.dataset['annotations']
            if not annotation['iscrowd']
        ],
        minlength=len(classes),
    )
    if not counts.sum():
        raise InputError(
            f'the {split} data have no annotated objects, but precision needs some; use another '
            '--split'
        )
    curves: dict[str, np.ndarray] = {}
    for predictor in predictors:
        name = unique_name(predictor.name, curves)
        own_dataset = dataset if predictor is first else _same_images(predictor, dataset, split)
        curves[name] = precision(truth, detections(predictor, own_dataset, split))
    order = [k for k in np.argsort(-counts, kind='stable') if counts[k]]
    panels = []
    if len(order) > 1:
        means = {name: mean(values) for name, values in curves.items()}
        panels.append(Precision(f'mean of {len(order)} classes', means))
    for k in order[: PANELS - 1]:
        title = f'{classes[k]} ({counts[k]} objects)'
        panels.append(Precision(title, {name: value[:, :, k] for name, value in curves.items()}))
    return precisions(panels, max(0, len(order) - PANELS + 1))


def _same_images(predictor: Predictor, dataset: BaseDataset, split: str) -> BaseDataset:
    """The data set of `predictor`, after a check that it has the same images as `dataset`."""
    own_dataset = dataset_with_boxes(predictor.cfg, split, augmented=False)
    ids = [
        [data.get_data_info(index)['img_id'] for index in range(len(data))]
        for data in (dataset, own_dataset)
    ]
    if ids[0] != ids[1]:
        raise InputError(
            f'the {split} images of {predictor.name} ({len(own_dataset)}) differ from those of the '
            f'first model ({len(dataset)}); give --data-root, or configs of the same data set'
        )
    return own_dataset


def ground_truth(dataset: BaseDataset) -> COCO:
    """The annotations of any data set of mmdet in COCO format; category ids are class numbers."""
    images: list[dict[str, int]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        images.append(dict(id=index))
        for item in info['instances']:
            x1, y1, x2, y2 = item['bbox']
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=index,
                    category_id=int(item['bbox_label']),
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    area=(x2 - x1) * (y2 - y1),
                    iscrowd=int(item.get('ignore_flag', 0)),
                )
            )
    categories = [dict(id=k, name=name) for k, name in enumerate(dataset.metainfo['classes'])]
    truth = COCO()
    truth.dataset = dict(images=images, annotations=annotations, categories=categories)
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


def detections(predictor: Predictor, dataset: BaseDataset, split: str) -> list[dict]:
    """Run a detector on a data set; returns rows in COCO's result format.

    Image ids are indices in the data set. The batches are those of the config, so that images are
    padded as in a test.
    """
    rows = []
    size = predictor.cfg[f'{split}_dataloader'].get('batch_size', 1) if split != 'train' else 1
    starts = range(0, len(dataset), size)
    for start in track(starts, f'detecting, {predictor.name}', transient=True):
        batch = [dataset[at] for at in range(start, min(start + size, len(dataset)))]
        with torch.no_grad():
            samples = predictor.model.test_step(pseudo_collate(batch))
        for index, sample in enumerate(samples, start):
            instances = sample.pred_instances
            for (x1, y1, x2, y2), score, label in zip(
                *(instances[key].tolist() for key in ('bboxes', 'scores', 'labels')), strict=True
            ):
                box = [x1, y1, x2 - x1, y2 - y1]
                rows.append(dict(image_id=index, category_id=label, score=score, bbox=box))
    return rows


def precision(truth: COCO, rows: list[dict]) -> np.ndarray:
    """Precision at IoU 0.5 and 0.75, at 101 recalls from 0 to 1, for K classes: (2, 101, K).

    It is -1 for a class without objects, and 0 above the highest recall that is reached.
    """
    shape = (2, 101, len(truth.cats))
    if not rows:
        present = {
            annotation['category_id']
            for annotation in truth.anns.values()
            if not annotation['iscrowd']
        }
        return np.where([k in present for k in sorted(truth.cats)], 0.0, np.full(shape, -1.0))
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(truth, truth.loadRes(rows), 'bbox')
        evaluator.params.iouThrs = np.array([0.5, 0.75])
        evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ['all']
        # mmdet computes AP50 and AP75 with this limit, but AP with 100.
        evaluator.params.maxDets = [1000]
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator.eval['precision'][:, :, :, 0, 0].reshape(shape)


def mean(values: np.ndarray) -> np.ndarray:
    """The mean over the classes that have objects: (2, 101, K) -> (2, 101)."""
    return values[:, :, (values > -1).all((0, 1))].mean(2)


def precisions(panels: Sequence[Precision], left_out: int = 0) -> Figure:
    """Plot precision over recall; each panel gives AP50 and AP75, the means over recall."""
    columns = min(4, len(panels))
    lines = math.ceil(len(panels) / columns)
    recall = np.linspace(0, 1, 101)
    height = 0.2 + 0.25 * math.ceil((len(panels[0].lines) + 2) / columns)  # of the legend
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            lines, columns, figsize=(3.3 * columns, 3 * lines + height), squeeze=False
        )
        for axis in list(axes.flat)[len(panels) :]:
            axis.set_axis_off()
        for axis, panel in zip(axes.flat, panels, strict=False):
            for number, values in enumerate(panel.lines.values()):
                colour = CYCLE[number % len(CYCLE)]
                axis.plot(recall, values[0], color=colour)
                axis.plot(recall, values[1], '--', color=colour)
                text = f'AP50 {values[0].mean():.3f}, AP75 {values[1].mean():.3f}'
                axis.text(
                    x=0.03,
                    y=0.04 + 0.09 * number,
                    s=text,
                    color=colour,
                    fontsize=8,
                    transform=axis.transAxes,
                )
            axis.set(xlim=(0, 1), ylim=(0, 1.02), title=panel.title)
            axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ['0', '', '0.5', '', '1'])
        for axis in axes[-1]:
            axis.set_xlabel('recall')
        for axis in axes[:, 0]:
            axis.set_ylabel('precision')
        marks = {
            name: Line2D([], [], color=CYCLE[number % len(CYCLE)])
            for number, name in enumerate(panels[0].lines)
        }
        marks['IoU 0.5 (COCO AP50)'] = Line2D([], [], color='black')
        marks['IoU 0.75 (COCO AP75)'] = Line2D([], [], color='black', ls='--')
        figure.legend(marks.values(), marks, loc='outside lower center', ncols=columns)
        if left_out:
            figure.suptitle(f'{left_out} classes with fewer objects are not shown', fontsize=9)
    return figure
