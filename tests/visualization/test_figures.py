"""What figures show: colour scales, labels, missed objects and panels."""

from __future__ import annotations

import errno
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from mmengine.structures import InstanceData

from cbam_det.datasets.digits import CLASSES
from cbam_det.utils.config import read_config
from cbam_det.utils.errors import InputError
from cbam_det.visualization.curves import TrainingLog, curves, read_log
from cbam_det.visualization.detections import detection_page, side_by_side
from cbam_det.visualization.figures import (
    BLUE,
    MISSED,
    Boxes,
    Cell,
    GateRow,
    attention_sheet,
    heat_limits,
    save,
    sheet,
)
from cbam_det.visualization.precision import precision_page

from ..conftest import SMALL
from .untrained import DIGITS

PICTURE = np.zeros((40, 60, 3), np.uint8)


def detector(digits: Path, *classes: str) -> SimpleNamespace:
    """A detector of these classes that detects nothing in the small digits."""

    def test_step(batch: dict) -> list:
        for sample in batch['data_samples']:
            sample.pred_instances = InstanceData(
                bboxes=torch.zeros(0, 4),
                labels=torch.zeros(0, dtype=torch.long),
                scores=torch.zeros(0),
            )
        return batch['data_samples']

    cfg = read_config(DIGITS)
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.update(data_root=f'{digits}/', metainfo=dict(classes=classes))
    cfg.model.roi_head.bbox_head.num_classes = len(classes)
    cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = (
        f'{digits}/annotations/instances_val2017.json'
    )
    model = SimpleNamespace(test_step=test_step)
    return SimpleNamespace(cfg=cfg, model=model, name='blind', classes=classes)


def panels(figure: Figure) -> list:
    return [axis for axis in figure.axes if axis.get_title()]


def test_attention_maps_of_an_image_share_a_colour_scale():
    ramp = np.linspace(0, 1, 40 * 60).reshape(40, 60)
    maps = {'weak': 1.012 + 0.002 * ramp, 'strong': 0.889 + 0.502 * ramp}
    rows = [
        GateRow(name, 'stage', None, weights, over_image=True, maximum=2)
        for name, weights in maps.items()
    ]
    (upper,) = attention_sheet(PICTURE, rows).subfigs
    weak, strong = (panel.images[-1].get_array() for panel in panels(upper)[1:])
    assert strong.min() == 0 and strong.max() == 1
    assert weak.max() - weak.min() == pytest.approx(0.002 / 0.502)
    assert upper.axes[-1].get_xlim() == pytest.approx((0.889, 1.391))  # the colour bar
    assert heat_limits([maps['weak']]) == pytest.approx((1.012, 1.112))


def test_labels_at_the_edges_of_a_picture_stay_inside():
    boxes = Boxes(np.array([[2.0, 1, 20, 30], [50, 20, 60, 39]]), ['top', 'right'], [BLUE] * 2)
    top, right = panels(sheet([[Cell(PICTURE, boxes, 'title')]]))[0].texts
    assert top.get_position()[1] > 0 and top.get_verticalalignment() == 'top'
    assert right.get_position()[0] == 60 and right.get_horizontalalignment() == 'right'


def test_missed_objects_are_drawn_dashed_and_counted(digits):
    truth, detections = panels(detection_page(detector(digits, *CLASSES), count=1))
    boxes = [
        [patch for patch in panel.patches if isinstance(patch, Rectangle)]
        for panel in (truth, detections)
    ]
    assert len(boxes[0]) == len(boxes[1]) > 0
    assert {patch.get_linestyle() for patch in boxes[1]} == {'--'}
    assert detections.get_title() == f'0 correct, 0 false, {len(boxes[1])} missed'
    labels = [text.get_text() for text in detections.texts]
    assert labels == [text.get_text() for text in truth.texts]
    assert {text.get_bbox_patch().get_facecolor()[:3] for text in detections.texts} == {
        tuple(int(MISSED[place : place + 2], 16) / 255 for place in (1, 3, 5))
    }


def test_detections_of_a_model_with_another_order_of_classes_are_refused(digits):
    model = detector(digits, *CLASSES)
    model.classes = (*CLASSES[::-1],)
    with pytest.raises(InputError, match='those of the data set: class 0 is nine, not zero'):
        detection_page(model, count=1)
    with pytest.raises(InputError, match='those of the data set: class 0 is nine, not zero'):
        side_by_side([model, model], count=1)


@pytest.mark.parametrize('count', [1, 2])
def test_one_class_has_one_panel_and_two_also_their_mean(count, digits):
    content = json.loads((digits / 'annotations/instances_val2017.json').read_text())
    names = {category['id']: category['name'] for category in content['categories']}
    numbers = Counter(names[row['category_id']] for row in content['annotations'])
    classes = [name for name, _ in numbers.most_common(count)]
    page = precision_page([detector(digits, *classes)])
    titles = [panel.get_title() for panel in panels(page)]
    expected = [f'{name} ({numbers[name]} objects)' for name in classes]
    assert titles == (['mean of 2 classes', *expected] if count == 2 else expected)


def test_curves_show_a_single_step_as_a_point_and_whole_steps_on_the_axis():
    run = TrainingLog(
        'short', {'loss': ([5], [1.75]), 'AP': ([5], [0.2]), 'learning rate': ([5], [0.1])}
    )
    figure = curves([run])
    figure.canvas.draw()
    for axis in figure.axes:
        assert axis.lines[0].get_marker() == 'o'
        assert [tick for tick in axis.get_xticks() if 4.5 < tick < 5.5] == [5]
    plt.close(figure)


def test_curves_have_no_points_of_an_earlier_run_after_the_start_of_a_later_one(tmp_path):
    def write(run: str, *steps: tuple[int, float, float]) -> None:
        rows = []
        for epoch, (step, loss, score) in enumerate(steps, 1):
            rows.append(dict(lr=0.1, loss=loss, epoch=epoch, iter=step, step=step))
            rows.append({'coco/bbox_mAP': score, 'step': epoch})
        log = tmp_path / run / 'vis_data' / 'scalars.json'
        log.parent.mkdir(parents=True)
        log.write_text('\n'.join(map(json.dumps, rows)))

    write('1', (100, 9, 0.1), (200, 8, 0.2), (300, 7, 0.3))
    write('2', (200, 6, 0.4), (300, 5, 0.5))  # resumed after the first epoch
    series = read_log(tmp_path).series
    assert series['AP'] == ([100, 200, 300], [0.1, 0.4, 0.5])
    assert series['loss'] == ([100, 200, 300], [9, 6, 5])
    write('3', (100, 4, 0.6))  # from the start, into the same folder
    assert read_log(tmp_path).series == {
        'learning rate': ([100], [0.1]),
        'loss': ([100], [4]),
        'AP': ([100], [0.6]),
    }


def test_precision_on_training_images_is_that_of_a_test(digits):
    """Without the flips of the training, and with each image once."""

    def images(augment: bool) -> list[torch.Tensor]:
        model = detector(digits, *CLASSES)
        if augment:
            loader = model.cfg.train_dataloader
            loader.dataset.pipeline.insert(-1, dict(type='RandomFlip', prob=1.0))
            loader.dataset = dict(type='RepeatDataset', times=2, dataset=loader.dataset)
        seen, test_step = [], model.model.test_step
        model.model.test_step = lambda batch: seen.extend(batch['inputs']) or test_step(batch)
        plt.close(precision_page([model], 'train'))
        return seen

    plain, augmented = images(False), images(True)
    assert len(plain) == len(augmented) == SMALL.train
    assert all(map(torch.equal, plain, augmented))


def test_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def fail(self: Figure, path: Path, **_: object) -> None:
        Path(path).write_text('half')
        raise OSError(errno.ENOSPC, 'write')

    save(plt.figure(), tmp_path / 'a.png')
    content = (tmp_path / 'a.png').read_bytes()
    monkeypatch.setattr(Figure, 'savefig', fail)
    with pytest.raises(OSError, match='write'):
        save(plt.figure(), tmp_path / 'a.png')
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [content]
    plt.close('all')
