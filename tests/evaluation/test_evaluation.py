"""FastCocoMetric gives pycocotools' numbers with CocoMetric's names and options."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation.metrics import CocoMetric, coco_metric
from mmdet.registry import METRICS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from pycocotools import mask
from pycocotools.cocoeval import COCOeval

from benchmarks.detections import random_detections
from cbam_det.evaluation.coco_ids import NumberedEval
from cbam_det.evaluation.metrics import (
    COCO_NUMBERS,
    FastCocoMetric,
    class_of_metric,
    fix_metrics,
    report_every_number,
    with_fast_metrics,
)
from cbam_det.utils.errors import InputError
from cbam_det.utils.records import scored

from ..conftest import CONFIGS, QUICK
from ..engine.tiny_run import toy
from .test_right_numbers import QUIET, files, perfect
from .test_right_numbers import evaluated as scores_of

FAST = 'faster-coco-eval'  # what a run logs
CLASSES = [f'class {label}' for label in range(80)]


@pytest.fixture(scope='module')
def few(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list]:
    """An annotation file of 200 images and 80 classes, and 120 detections per image."""
    content, detections = random_detections(200, len(CLASSES), 120)
    annotations = content['annotations']
    assert sum(annotation['iscrowd'] for annotation in annotations) > 10
    assert len({annotation['image_id'] for annotation in annotations}) < 195
    areas = [annotation['area'] for annotation in annotations]
    assert min(areas) < 32**2 < 96**2 < areas[0]
    path = tmp_path_factory.mktemp('made_up') / 'annotations.json'
    path.write_text(json.dumps(content))
    return path, detections


def metric_of(kind: str, path: Path, **options: object) -> CocoMetric:
    metric = METRICS.build(dict(type=kind, ann_file=str(path), **options))
    metric.dataset_meta = dict(classes=CLASSES)
    return metric


def evaluated(kind: str, path: Path, detections: list, **options: object) -> dict[str, float]:
    metric = metric_of(kind, path, **options)
    for image, values in enumerate(detections, 1):
        predictions = dict(
            zip(('bboxes', 'scores', 'labels'), map(torch.as_tensor, values[:3]), strict=True)
        )
        if len(values) > 3:
            predictions['masks'] = values[3]
        sample = dict(img_id=image, ori_shape=(640, 640), pred_instances=predictions)
        metric.process({}, [sample])
    return metric.evaluate(len(detections))


@pytest.mark.parametrize(
    ('by_class', 'limits', 'classes', 'images'),
    [
        (1, [100, 300, 1000], 80, 200),
        (0, [100, 300, 1000], 80, 200),
        (1, [1, 10, 100], 80, 200),
        (0, [10, 100, 120], 30, 100),
    ],
    ids=['boxes', 'proposals', 'limits of COCO', 'proposals of a part'],
)
def test_every_count_is_that_of_pycocotools(by_class, limits, classes, images, few):
    """The 12 numbers, the scores, and precision and recall by IoU, class, area and limit."""
    path, detections = few
    truth = COCO(str(path))
    rows = [
        dict(image_id=image, category_id=int(label) + 1, bbox=[*box[:2], *(box[2:] - box[:2])])
        | dict(score=score)
        for image, (boxes, scores, labels) in enumerate(detections, 1)
        for box, score, label in zip(boxes, scores, labels, strict=True)
    ]
    counts = []
    for evaluator in (COCOeval, metric_of('FastCocoMetric', path).evaluator):
        run = evaluator(truth, truth.loadRes(rows), 'bbox')
        run.params.useCats, run.params.maxDets = by_class, limits
        run.params.catIds = list(range(1, classes + 1))
        run.params.imgIds = list(range(1, images + 1))
        run.evaluate()
        run.accumulate()
        run.summarize()
        counts.append([run.stats, *(run.eval[key] for key in ('precision', 'recall', 'scores'))])
    for expected, actual in zip(*counts, strict=True):
        assert expected.shape == actual.shape
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)
    assert counts[0][0][0] > 0.1 and counts[0][0][-1] > 0.1


@pytest.mark.parametrize(
    'options',
    [
        dict(metric=['bbox', 'proposal'], classwise=True),
        dict(metric='bbox', metric_items=COCO_NUMBERS, proposal_nums=(1, 10, 100)),
        dict(metric='bbox', iou_thrs=np.array([0.5, 0.75]), prefix='other', use_mp_eval=True),
    ],
    ids=['boxes and proposals', 'every number', 'other IoUs'],
)
def test_metrics_names_and_order_are_those_of_coco_metric(options, few):
    plain = {**options, 'use_mp_eval': False}
    first = evaluated('CocoMetric', *few, **plain)
    second = evaluated('FastCocoMetric', *few, **options)
    assert list(first) == list(second)
    np.testing.assert_allclose([*second.values()], [*first.values()], rtol=0, atol=1e-6)
    assert all(key.startswith(f'{options.get("prefix", "coco")}/') for key in second)
    assert ('coco/class 79_precision' in second) == options.get('classwise', False)
    assert coco_metric.COCOeval is NumberedEval


def test_masks_have_coco_metric_s_numbers(tmp_path):
    content, detections = random_detections(40, 5, 20)
    for annotation in content['annotations']:
        x, y, w, h = annotation['bbox']
        triangle = [x, y, x + w, y, x + w, y + h]
        annotation['segmentation'] = [triangle]
        if annotation['iscrowd']:
            encoded = mask.merge(mask.frPyObjects([triangle], 640, 640))
            annotation['segmentation'] = dict(encoded, counts=encoded['counts'].decode())
    path = tmp_path / 'annotations.json'
    path.write_text(json.dumps(content))
    masked = [
        (boxes, scores, labels)
        + (mask.frPyObjects([[a, b, c, b, c, d] for a, b, c, d in boxes.tolist()], 640, 640),)
        for boxes, scores, labels in detections
    ]
    options = dict(metric=['bbox', 'segm'], classwise=True)
    first = evaluated('CocoMetric', path, masked, **options)
    second = evaluated('FastCocoMetric', path, masked, **options)
    assert list(first) == list(second) and first['coco/segm_mAP'] > 0.1
    np.testing.assert_allclose([*second.values()], [*first.values()], rtol=0, atol=1e-6)


@pytest.mark.parametrize('kind', ['CocoMetric', 'FastCocoMetric'])
def test_size_without_objects_has_nan_in_the_log_and_null_in_json(kind, tmp_path):
    """pycocotools' -1 looks like a score, and spoils a mean."""
    content, found = random_detections(10, 5, 20)
    content['annotations'] = [one for one in content['annotations'] if one['area'] < 96**2]
    path = tmp_path / 'annotations.json'
    path.write_text(json.dumps(content))
    fix_metrics()
    for parallel in (False, True) if kind == 'CocoMetric' else (False,):
        options = dict(classwise=True, metric_items=COCO_NUMBERS, use_mp_eval=parallel)
        metrics = evaluated(kind, path, found, **options)
        names = {'coco/bbox_mAP_l', 'coco/bbox_AR_l@1000'}
        assert {key for key, value in metrics.items() if value != value and 'bbox' in key} == names
        record = scored(metrics)
        assert {key for key in record if record[key] is None} >= names
        assert json.loads(json.dumps(record, allow_nan=False))['coco/bbox_mAP'] > 0


def test_numbers_of_older_logs_are_read_in_the_same_way():
    logged = {'coco/bbox_mAP': 0.0, 'coco/bbox_mAP_l': -1.0, 'coco/cat_precision': float('nan')}
    nothing = {'coco/bbox_mAP_l': None, 'coco/cat_precision': None}
    assert scored(logged) == scored(scored(logged)) == {'coco/bbox_mAP': 0.0, **nothing}


def test_class_of_a_metric_is_named():
    keys = ('coco/cat_precision', 'coco/on/off_precision', 'coco/bbox_mAP', 'pascal_voc/AP50')
    assert [class_of_metric(key) for key in keys] == ['cat', 'on/off', None, None]


def test_nothing_detected_is_reported_as_coco_metric_does(few):
    nothing = [(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))] * 3
    assert evaluated('FastCocoMetric', few[0], nothing) == {}
    assert evaluated('CocoMetric', few[0], nothing) == {}


def test_without_faster_coco_eval_the_error_has_a_remedy(few):
    with (
        mock.patch.dict(sys.modules, faster_coco_eval=None),
        pytest.raises(InputError, match=r'pip install faster-coco-eval==1\.8\.0'),
    ):
        metric_of('FastCocoMetric', few[0])


def test_evaluator_of_a_test_reports_every_number():
    cfg = Config(dict(test_evaluator=dict(type='FastCocoMetric', metric='bbox')))
    report_every_number(cfg.test_evaluator)
    assert cfg.test_evaluator.classwise and cfg.test_evaluator.metric_items == COCO_NUMBERS


def test_ap_of_each_class_is_left_out_where_that_of_masks_would_take_its_name():
    for metric, classwise in ((['bbox', 'proposal'], True), (['bbox', 'segm'], False)):
        cfg = Config(dict(test_evaluator=dict(type='CocoMetric', metric=metric)))
        report_every_number(cfg.test_evaluator)
        assert cfg.test_evaluator.get('classwise', False) == classwise
        assert cfg.test_evaluator.metric_items == COCO_NUMBERS


def test_metrics_are_json_whatever_their_type():
    metrics = dict(
        tensor=torch.tensor(0.5), numpy=np.float32(0.5), listed=torch.tensor([0.5, np.nan])
    )
    metrics |= dict(infinite=float('inf'), nothing=torch.tensor(-1.0), count=3, name='a')
    record = json.loads(json.dumps(scored(metrics), allow_nan=False))
    assert record == dict(
        tensor=0.5, numpy=0.5, listed=[0.5, None], infinite=None, nothing=None, count=3, name='a'
    )


def test_one_option_of_a_shipped_config_chooses_pycocotools_with_the_same_numbers(
    trained, digits, run, tmp_path
):
    """The numbers equal those of FastCocoMetric in the validation after the last epoch."""
    options = ('--work-dir', 'work', '--data-root', digits, '--cfg-options', *QUICK)
    config = CONFIGS / 'faster_rcnn_r50_cbam_digits.py'
    option = 'fast_coco_eval=False'
    process = run('test.py', config, trained / 'work/epoch_2.pth', *options, option, cwd=tmp_path)
    assert FAST not in process.stdout
    (file,) = tmp_path.glob('work/*/metrics.json')
    second = json.loads(file.read_text())['metrics']
    assert 'coco/seven_precision' in second and 'coco/bbox_AR@1000' in second
    (log,) = trained.glob('work/*/*.log')
    assert FAST in log.read_text()
    (log,) = trained.glob('work/*/vis_data/scalars.json')
    first = scored(json.loads([line for line in log.open() if 'coco/bbox_mAP' in line][-1]))
    names = [name for name in first if name.startswith('coco/')]
    assert len(names) == 6 + 10 and all(first[name] == second[name] for name in names)


def test_a_runner_evaluates_by_it_unless_its_config_says_otherwise(tmp_path):
    other = dict(type='VOCMetric')
    for options, kind in (({}, FastCocoMetric), (dict(fast_coco_eval=False), CocoMetric)):
        runner = toy(tmp_path, cfg=options)
        for metric in (dict(type='CocoMetric'), dict(type='mmdet.CocoMetric'), CocoMetric):
            metric = metric if isinstance(metric, dict) else dict(type=metric)
            given = dict(metric)
            for evaluator in (metric, [other, metric], dict(metrics=[other, metric])):
                with DefaultScope.overwrite_default_scope('mmdet'):
                    assert type(runner.build_evaluator(evaluator).metrics[-1]) is kind
            assert metric == given


def test_metric_that_is_built_or_names_its_evaluation_is_not_replaced():
    built, mine = CocoMetric(), type('Mine', (CocoMetric,), {})
    for metric in (built, dict(type=mine), dict(type='CocoMetric', use_mp_eval=True)):
        assert with_fast_metrics(metric) is metric


@pytest.mark.parametrize('from_file', [True, False], ids=['its own file', "the loader's boxes"])
@given(content=files(), seed=st.integers(0, 2**32 - 1))
@QUIET
def test_every_number_is_pycocotools_s_for_any_ids_crowds_repeated_boxes_and_equal_scores(
    from_file, content, seed
):
    """Ids as in the files of test_right_numbers: in any order, from 0, numbers, texts or both."""
    random = np.random.default_rng(seed)
    for annotation in content['annotations']:
        annotation['iscrowd'] = int(random.random() < 0.2)
        annotation['bbox'] = [*annotation['bbox'][:2], *random.choice([0.0, 20, 60, 150], 2)]
        annotation['area'] = float(random.choice([0, 400, 3600, 22500]))
    repeated = [
        {**annotation, 'id': f'again {number}'}
        for number, annotation in enumerate(content['annotations'])
        if random.random() < 0.3
    ]
    content['annotations'] += repeated
    samples = perfect(content)
    for sample in samples:
        found = sample['pred_instances']
        again = torch.from_numpy(random.integers(len(found['labels']) + 1, size=(2, 4)).ravel())
        again = again[again < len(found['labels'])]  # any number of detections of an object
        shift = torch.from_numpy(random.choice([0.0, 0.0, 2, 9, 40], (len(again), 4))).float()
        labels = torch.from_numpy(random.integers(len(content['categories']), size=len(again)))
        is_right = torch.from_numpy(random.random(len(again)) < 0.7)
        sample['pred_instances'] = dict(
            bboxes=found['bboxes'][again] + shift,
            labels=torch.where(is_right, found['labels'][again], labels),
            scores=torch.from_numpy(random.choice([0.3, 0.6, 0.9], len(again))),
        )
    numbers = []
    for kind in ('CocoMetric', 'FastCocoMetric'):
        metric = dict(type=kind, metric=['bbox', 'proposal'], classwise=True)
        metric['metric_items'] = None
        with tempfile.TemporaryDirectory() as folder:
            if from_file:
                path = Path(folder, 'file.json')
                path.write_text(json.dumps(content))
                metric['ann_file'] = str(path)
            numbers.append(scores_of(metric, content, samples))
    assert numbers[1] == pytest.approx(numbers[0], abs=0, nan_ok=True)
    assert list(numbers[0]) == list(numbers[1])
