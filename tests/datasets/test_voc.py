"""PASCAL VOC: both years, its metrics and COCO's on known detections, and difficult boxes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS, METRICS
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from PIL import Image

from cbam_det.datasets.digits import CLASSES

from ..conftest import CONFIGS, QUICK

VOC = ('aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow')
XML = (
    '<annotation><size><width>200</width><height>200</height><depth>3</depth></size>{}</annotation>'
)
OBJECT = (
    '<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{box[0]}</xmin>'
    '<ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>'
)
LEFT_BOX, RIGHT_BOX = (11, 11, 90, 90), (111, 111, 190, 190)  # 1-based and inclusive, as in VOC


def write_devkit(root: Path, images: list[list[tuple[str, tuple, int]]]) -> Path:
    """A VOC2007 folder whose test list is `images`, each a list of (class, box, difficult)."""
    for folder in ('Annotations', 'ImageSets/Main', 'JPEGImages'):
        (root / 'VOC2007' / folder).mkdir(parents=True)
    for number, objects in enumerate(images):
        text = ''.join(
            OBJECT.format(name=name, box=box, difficult=difficult)
            for name, box, difficult in objects
        )
        (root / f'VOC2007/Annotations/{number}.xml').write_text(XML.format(text))
        Image.fromarray(np.zeros((200, 200, 3), np.uint8)).save(
            root / f'VOC2007/JPEGImages/{number}.jpg'
        )
    names = ''.join(f'{number}\n' for number in range(len(images)))
    (root / 'VOC2007/ImageSets/Main/test.txt').write_text(names)
    return root


def scores(root: Path, detections: list[list[tuple[int, tuple, float]]]) -> dict[str, float]:
    """Scores of VOC's and COCO's metrics for detections (label, VOC box, score) of each image."""
    cfg = get_config('mmdet::_base_/datasets/voc0712.py')
    with DefaultScope.overwrite_default_scope('mmdet'):
        pipeline = cfg.val_dataloader.dataset.pipeline
        pipeline.pop(1)  # Resize: these detections are in pixels of the image file
        pipeline[-1]['meta_keys'] = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'instances')
        dataset = DATASETS.build(dict(cfg.val_dataloader.dataset, data_root=f'{root}/'))
        metrics = {
            '11points': METRICS.build(dict(type='VOCMetric', eval_mode='11points')),
            'area': METRICS.build(dict(type='VOCMetric', eval_mode='area')),
            'coco': METRICS.build(dict(type='CocoMetric', metric='bbox')),
        }
        for metric in metrics.values():
            metric.dataset_meta = dataset.metainfo
        for index, boxes in enumerate(detections):
            sample = dataset[index]['data_samples']
            # mmdet reads a VOC box [xmin, xmax] as [xmin - 1, xmax - 1].
            sample.pred_instances = InstanceData(
                bboxes=torch.tensor([box for _, box, _ in boxes], dtype=torch.float) - 1,
                labels=torch.tensor([label for label, _, _ in boxes]),
                scores=torch.tensor([score for _, _, score in boxes]),
            )
            for metric in metrics.values():
                metric.process({}, [sample.to_dict()])
        results = {name: metric.evaluate(len(detections)) for name, metric in metrics.items()}
    return {
        '11points': results['11points']['pascal_voc/mAP'],
        'area': results['area']['pascal_voc/mAP'],
        'coco': results['coco']['coco/bbox_mAP_50'],
    }


def test_known_detections_have_their_known_scores_in_voc_s_and_coco_s_metrics(tmp_path):
    """Correct, wrong, correct: precision 1 up to recall 1/2, then 2/3, sampled in three ways."""
    root = write_devkit(tmp_path, [[('cat', LEFT_BOX, 0)], [('cat', RIGHT_BOX, 0)]])
    cat = 7
    result = scores(root, [[(cat, LEFT_BOX, 0.9), (cat, RIGHT_BOX, 0.8)], [(cat, RIGHT_BOX, 0.7)]])
    assert result['11points'] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11, abs=1e-3)
    assert result['area'] == pytest.approx(0.5 + 0.5 * 2 / 3, abs=1e-3)
    assert result['coco'] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101, abs=1e-3)


def test_box_with_just_more_than_half_overlap_counts_in_all_three(tmp_path):
    """A box of 80x42 inside one of 80x80 has an IoU of 42/80, above 1/2; 80x38 is below it."""
    root = write_devkit(tmp_path, [[('cow', LEFT_BOX, 0)]])
    for height, score in ((42, 1.0), (38, 0.0)):
        box = (11, 11, 90, 10 + height)
        result = scores(root, [[(9, box, 0.9)]])
        assert result == pytest.approx({'11points': score, 'area': score, 'coco': score}, abs=1e-3)


def test_difficult_box_does_not_count_whether_detected_or_missed(tmp_path):
    root = write_devkit(tmp_path / 'hard', [[('bus', LEFT_BOX, 0), ('bus', RIGHT_BOX, 1)]])
    missed = scores(root, [[(5, LEFT_BOX, 0.9)]])
    detected = scores(root, [[(5, RIGHT_BOX, 0.95), (5, LEFT_BOX, 0.9)]])
    assert missed == detected == pytest.approx({'11points': 1, 'area': 1, 'coco': 1}, abs=1e-3)
    plain = write_devkit(tmp_path / 'plain', [[('bus', LEFT_BOX, 0), ('bus', RIGHT_BOX, 0)]])
    assert scores(plain, [[(5, LEFT_BOX, 0.9)]])['area'] == pytest.approx(0.5, abs=1e-3)


@pytest.fixture(scope='module')
def devkit(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VOC2007 and VOC2012 with scenes of the small digits, named as ten VOC classes."""
    root = tmp_path_factory.mktemp('VOCdevkit')
    for year in ('VOC2007', 'VOC2012'):
        shutil.copytree(digits / 'VOCdevkit/VOC2007', root / year)
        for file in (root / year / 'Annotations').glob('*.xml'):
            text = file.read_text()
            for digit, name in zip(CLASSES, VOC, strict=True):
                text = text.replace(f'<name>{digit}<', f'<name>{name}<')
            file.write_text(text)
    return root


def test_both_years_train_and_the_first_is_scored(devkit, run, tmp_path):
    """StairNet with MobileNet and CBAM, on 07+12 -> 07."""
    options = [option for option in QUICK if 'batch_size' not in option]
    output = run(
        *('train.py', CONFIGS / 'stairnet_mobilenet_cbam_voc.py', '--work-dir', 'work'),
        *('--data-root', devkit, '--cfg-options', *options, 'train_cfg.max_epochs=1'),
        *('model.backbone.init_cfg=None', 'train_dataloader.dataset.times=1'),
        cwd=tmp_path,
    ).stdout
    assert 'Epoch(train) [1][3/3]' in output  # 12 scenes of each year in batches of 8
    log = next((tmp_path / 'work').glob('*/vis_data/scalars.json')).read_text().splitlines()
    rows = [json.loads(line) for line in log]
    assert 0 <= rows[-1]['pascal_voc/mAP'] <= 1
    assert all(np.isfinite(row['loss']) for row in rows if 'loss' in row)


@pytest.mark.parametrize('config', ['ssd300_vgg16_cbam_voc', 'retinanet_r50_cbam_voc'])
def test_configs_for_07_and_12_read_both_years_and_score_with_11_points(config):
    cfg = Config.fromfile(CONFIGS / f'{config}.py')
    sets = cfg.train_dataloader.dataset.dataset.datasets
    assert [dataset.ann_file for dataset in sets] == [
        'VOC2007/ImageSets/Main/trainval.txt',
        'VOC2012/ImageSets/Main/trainval.txt',
    ]
    assert cfg.test_dataloader.dataset.ann_file == 'VOC2007/ImageSets/Main/test.txt'
    assert cfg.test_evaluator.eval_mode == '11points'
