"""What a training leaves at its end: a page, its pictures, and the AP of each class."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.evaluation.metrics import CocoMetric, LVISMetric
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from PIL import Image

from cbam_det.engine.hooks import RunReportHook, run_report_hook
from cbam_det.evaluation.metrics import FastCocoMetric
from cbam_det.utils.exits import Stopped
from cbam_det.utils.records import log_lines
from cbam_det.visualization import run_page
from cbam_det.visualization.detections import Detections
from cbam_det.visualization.run_page import Validation, write_run_page

from .tiny_run import At, toy

CURVES, CONFUSION, DETECTIONS = 'curves.png', 'confusion_matrix.png', 'detections.png'
ON = dict(run_report=dict(type='RunReportHook'))


class Scenes:
    """Four images, and the detections of a detector in them."""

    classes = ('cat', 'dog')

    def __init__(self, folder: Path) -> None:
        self.paths = [str(folder / f'{number}.png') for number in range(4)]
        for path in self.paths:
            Image.new('RGB', (64, 48), 'grey').save(path)

    def __len__(self) -> int:
        return len(self.paths)

    def get_data_info(self, index: int) -> dict:
        box = dict(bbox=[8, 8, 30, 40], bbox_label=index % 2, ignore_flag=0)
        return dict(img_path=self.paths[index], img_id=index, instances=[box])

    def validation(self) -> Validation:
        found = Detections(np.array([[8, 8, 30, 38.0]]), np.array([0]), np.array([0.9]))
        metrics = {'coco/bbox_mAP': 0.25, 'coco/cat_precision': 0.5, 'coco/dog_precision': -1}
        paths = dict.fromkeys(self.paths[:3], found)
        return Validation('epoch 3', self, self.classes, metrics, paths)


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    log = tmp_path / 'work' / '1' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text('{"loss": 2.0, "lr": 0.1, "step": 1}\n{"loss": 1.0, "lr": 0.1, "step": 2}\n')
    return tmp_path / 'work'


def test_page_has_scores_curves_confusion_and_detections_and_needs_no_other_file(work_dir):
    validation = Scenes(work_dir).validation()
    page, faults = write_run_page(work_dir, validation, 2, 'do `this`')
    assert page == work_dir / 'report.html' and not faults
    text = page.read_text(encoding='utf-8')
    titles = re.findall(r'<h2 id="s\d">(.*?)</h2>', text)
    assert titles == ['scores', 'curves', 'confusion matrix', 'detections', 'more']
    assert '<td>0.250</td>' in text and 'validation after epoch 3' in text
    assert '<td>cat</td><td>0.500</td>' in text and 'dog' not in text
    assert text.count('src="data:image/png;base64,') == 3 and '<code>this</code>' in text
    for name in (CURVES, CONFUSION, DETECTIONS):
        assert Image.open(work_dir / name).size > (300, 200)


def test_picture_that_cannot_be_drawn_is_named_and_the_others_are_drawn(work_dir):
    scenes = Scenes(work_dir)
    validation = scenes.validation()
    Path(scenes.paths[0]).unlink()
    page, faults = write_run_page(work_dir, validation, 6, '')
    assert [fault.partition(' could')[0] for fault in faults] == ['detections']
    assert 'detections could not be drawn: InputError: ' in page.read_text(encoding='utf-8')
    assert (work_dir / CONFUSION).is_file() and not (work_dir / DETECTIONS).exists()


def test_page_shows_evenly_spaced_images_that_were_validated(work_dir, monkeypatch):
    scenes, shown = Scenes(work_dir), []
    monkeypatch.setattr(
        run_page, 'truth_and_detections', lambda images, *_: shown.extend(images) or 1 / 0
    )
    write_run_page(work_dir, scenes.validation(), 2, '')
    assert [info['img_path'] for info, _ in shown] == [scenes.paths[0], scenes.paths[2]]


@pytest.mark.usefixtures('tiny_runs')
def test_any_training_leaves_its_curves_and_names_the_page(tmp_path, capsys):
    toy(tmp_path, default=ON, log_level='INFO').train()
    assert (tmp_path / CURVES).is_file() and not (tmp_path / CONFUSION).exists()
    assert f'curves, detections and scores: {tmp_path}/report.html' in capsys.readouterr().out


@pytest.mark.usefixtures('tiny_runs')
def test_fault_of_the_report_is_a_warning_and_the_training_succeeds(tmp_path, capsys, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(run_page, 'write_page', fail)
    toy(tmp_path, default=ON, max_epochs=1).train()
    assert 'no report was written: OSError: [Errno 28]' in capsys.readouterr().out
    assert (tmp_path / 'epoch_1.pth').is_file()


@pytest.mark.usefixtures('tiny_runs')
def test_resumed_run_that_was_complete_leaves_the_report_as_it_is(tmp_path, monkeypatch):
    toy(tmp_path, default=ON, max_epochs=1).train()
    monkeypatch.setattr(run_page, 'write_run_page', lambda *_: pytest.fail('written again'))
    toy(tmp_path, default=ON, max_epochs=1, resume=True).train()


@pytest.mark.usefixtures('tiny_runs')
def test_interrupted_run_writes_no_report(tmp_path):
    def stop(run) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Stopped):
        toy(tmp_path, At(4, stop), default=ON).train()
    assert not (tmp_path / 'report.html').exists()


def test_detections_of_mixed_precision_are_kept_from_a_score_on():
    instances = InstanceData(
        bboxes=torch.rand(3, 4, dtype=torch.bfloat16),
        labels=torch.tensor([2, 1, 0]),
        scores=torch.tensor([0.25, 0.5, 0.75], dtype=torch.bfloat16),
    )
    kept = Detections.of(instances, 0.5)
    assert kept.boxes.shape == (2, 4) and kept.boxes.dtype == np.float32
    assert kept.labels.tolist() == [1, 0] and kept.scores.tolist() == [0.5, 0.75]


def test_scores_of_classes_come_last_so_that_save_best_auto_takes_that_of_all(tmp_path):
    hook = RunReportHook()
    hook._validation = Scenes(tmp_path).validation()
    metrics = {'coco/cat_precision': 0.1, 'coco/dog_precision': 0.3, 'coco/bbox_mAP': 0.2}
    hook.after_val_epoch(None, metrics)
    assert list(metrics) == ['coco/bbox_mAP', 'coco/cat_precision', 'coco/dog_precision']


def test_number_of_images_is_checked():
    with pytest.raises(ValueError, match='count=0 must be a whole number of 1 or more'):
        RunReportHook(count=0)


def test_detector_leaves_everything_and_the_ap_of_each_class_in_the_last_validation(trained):
    work = trained / 'work'
    assert {CURVES, CONFUSION, DETECTIONS} <= {path.name for path in work.glob('*.png')}
    rows = [row for row in log_lines(work) if 'coco/bbox_mAP' in row]
    classes = [sum(key.endswith('_precision') for key in row) for row in rows]
    assert classes == [0, 10]
    text = (work / 'report.html').read_text(encoding='utf-8')
    assert 'AP by class' in text and f'<td>{rows[-1]["coco/bbox_mAP"]:.3f}</td>' in text
    assert 'could not be drawn' not in text


def test_classes_are_printed_in_columns(capsys):
    metrics = {'coco/bbox_mAP': 0.3, 'coco/red cell_precision': 0.5, 'coco/four_precision': 0.25}
    run_report_hook._print_classes(metrics)
    assert capsys.readouterr().out.split() == [
        *('AP', 'by', 'class', 'red', 'cell', '0.500', 'four', '0.250'),
    ]


def test_names_of_classes_are_shown_as_they_are(capsys):
    run_report_hook._print_classes({'coco/car [red]_precision': 0.5, 'coco/[/b]_precision': 0.25})
    assert {'car [red] 0.500', '[/b] 0.250'} <= set(re.split(r'  +|\n', capsys.readouterr().out))


@pytest.mark.usefixtures('tiny_runs')
def test_a_terminal_that_cannot_show_a_name_ends_no_training(tmp_path, monkeypatch):
    def fail(metrics: object) -> None:
        '猫'.encode('latin-1')

    monkeypatch.setattr(run_report_hook, 'is_terminal', lambda: True)
    monkeypatch.setattr(run_report_hook, '_print_classes', fail)
    toy(tmp_path, default=ON, max_epochs=1).train()
    assert (tmp_path / 'report.html').is_file()


@pytest.mark.parametrize(('shape', 'is_kept'), [((3, 4), True), ((3, 5), False), ((0,), False)])
def test_only_boxes_of_four_numbers_are_kept(shape, is_kept):
    sample = DetDataSample(metainfo=dict(img_path='a.jpg'))
    numbers = torch.zeros(shape[0])
    sample.pred_instances = InstanceData(bboxes=torch.zeros(shape), labels=numbers, scores=numbers)
    assert run_report_hook._has_boxes(sample) == is_kept


def test_only_metrics_that_cocometric_computes_get_the_scores_of_classes():
    class Renamed(CocoMetric):
        pass

    assert run_report_hook._is_coco(Renamed()) and run_report_hook._is_coco(FastCocoMetric())
    assert not run_report_hook._is_coco(LVISMetric.__new__(LVISMetric))
