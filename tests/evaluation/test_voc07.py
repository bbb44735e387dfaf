"""VOC 2007: its configs, its three scores, and mmdet's evaluation against the devkit's."""

from __future__ import annotations

import os
import pickle
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.datasets import VOCDataset
from mmdet.registry import METRICS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image

from cbam_det.datasets.validation.config import check_data
from cbam_det.datasets.validation.folder import examine
from cbam_det.datasets.validation.published import VOC_TOTALS
from cbam_det.utils.config import enter_scope, kind_of
from cbam_det.utils.errors import InputError
from cbam_det.utils.run_config import RunConfig

from ..conftest import CONFIGS
from ..datasets.one_set import check_dataset
from ..datasets.test_voc import write_devkit
from ..devkit import average_precision

CLASSES = VOCDataset.METAINFO['classes']
VOC07 = sorted(path.stem for path in CONFIGS.glob('*_voc07.py'))


@pytest.mark.parametrize('name', VOC07)
def test_configs_of_2007_train_on_trainval_and_score_test_three_ways_one_image_at_a_time(name):
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    assert cfg.train_dataloader.dataset.ann_file == 'VOC2007/ImageSets/Main/trainval.txt'
    assert cfg.test_dataloader.dataset.ann_file == 'VOC2007/ImageSets/Main/test.txt'
    assert cfg.test_dataloader.batch_size == 1
    metrics = [(kind_of(metric), metric.get('eval_mode')) for metric in cfg.test_evaluator]
    assert metrics == [('VOCMetric', '11points'), ('VOCMetric', 'area'), ('CocoMetric', None)]
    assert len({metric.get('prefix') for metric in cfg.test_evaluator[:2]}) == 2


@pytest.mark.parametrize(
    ('batch', 'keep_ratio', 'warns'), [(4, True, True), (1, True, False), (4, False, False)]
)
def test_batch_size_that_changes_the_scores_is_a_warning(
    batch, keep_ratio, warns, tmp_path, capsys
):
    root = write_devkit(tmp_path, [[('cat', (11, 11, 90, 90), 0)]] * 2)
    Image.fromarray(np.zeros((100, 200, 3), np.uint8)).save(root / 'VOC2007/JPEGImages/1.jpg')
    xml = root / 'VOC2007/Annotations/1.xml'
    xml.write_text(xml.read_text().replace('<height>200', '<height>100'))
    cfg = Config.fromfile(CONFIGS / 'faster_rcnn_r50_voc07.py')
    cfg.test_dataloader.batch_size = batch
    cfg.test_dataloader.dataset.data_root = f'{root}/'
    cfg.test_dataloader.dataset.pipeline[1].keep_ratio = keep_ratio
    check_data(RunConfig.from_cfg(cfg), ('test',))
    output = ''.join(capsys.readouterr())
    option = '2 different shapes .* --cfg-options test_dataloader.batch_size=1'
    assert bool(re.search(option, output)) == warns


boxes = st.tuples(*[st.integers(1, 60)] * 4).map(
    lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
)
images = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 2), boxes, st.booleans()), max_size=5),
        st.lists(st.tuples(st.integers(0, 2), boxes), max_size=8),
    ),
    min_size=2,
    max_size=4,
)


@given(images, st.randoms(use_true_random=False))
@settings(max_examples=12, deadline=None)
def test_mmdet_s_voc_scores_are_the_devkit_s_on_any_boxes(drawn, random):
    """All scores differ: neither defines the order of equal scores."""
    count = sum(len(detections) for _, detections in drawn)
    scores = iter(random.sample(range(1, 1000), count))
    samples, theirs = [], []
    for objects, boxes_of_detections in drawn:
        detections = [(label, next(scores) / 1000, box) for label, box in boxes_of_detections]
        easy = [(label, box) for label, box, difficult in objects if not difficult]
        hard = [(label, box) for label, box, difficult in objects if difficult]
        samples.append(_sample(easy, hard, detections))
        # Of two objects with equal overlap, both match the first; mmdet puts difficult ones last.
        truth = [(*item, False) for item in easy] + [(*item, True) for item in hard]
        theirs.append((truth, detections))
    _compare(samples, theirs, CLASSES[:3])


def _sample(easy: list, hard: list, detections: list) -> dict:
    def part(items: list) -> dict:
        return dict(
            labels=torch.tensor([label for label, *_ in items], dtype=torch.long),
            bboxes=torch.tensor([item[-1] for item in items], dtype=torch.float).reshape(-1, 4),
        )

    scores = torch.tensor([score for _, score, _ in detections])
    return dict(
        gt_instances=part(easy),
        ignored_instances=part(hard),
        pred_instances=dict(part(detections), scores=scores),
    )


def _compare(samples: list[dict], theirs: list[tuple[list, list]], classes: tuple) -> None:
    """Compare mmdet's metric on `samples` with the devkit's on the same objects and detections."""
    expected: dict[str, list[float]] = {'11points': [], 'area': []}
    for label in range(len(classes)):
        objects = {
            str(image): [(box, difficult) for kind, box, difficult in truth if kind == label]
            for image, (truth, _) in enumerate(theirs)
        }
        if all(difficult for boxes in objects.values() for _, difficult in boxes):
            continue  # mmdet leaves such a class out of the mean
        of_class = [
            (str(image), score, box)
            for image, (_, detections) in enumerate(theirs)
            for kind, score, box in detections
            if kind == label
        ]
        for mode, value in average_precision(objects, of_class).items():
            expected[mode].append(value)
    for mode, values in expected.items():
        with DefaultScope.overwrite_default_scope('mmdet'):
            metric = METRICS.build(dict(type='VOCMetric', eval_mode=mode))
        metric.dataset_meta = dict(classes=classes, dataset_type=None)
        metric.process({}, samples)
        mean_ap = metric.evaluate(len(samples))['pascal_voc/mAP']
        assert mean_ap == pytest.approx(np.mean(values) if values else 0, abs=1e-6)


def test_mmdet_s_voc_scores_are_the_devkit_s_on_a_detector_s_detections():
    """On VOC 2007 and the file of `tools/test.py --out`, if environment variables name both."""
    devkit, pickled = (os.environ.get(f'CBAM_DET_{name}') for name in ('VOC2007', 'DETECTIONS'))
    if not (devkit and pickled):
        pytest.skip('set CBAM_DET_VOC2007 (the folder) and CBAM_DET_DETECTIONS (a pickle)')
    predictions = pickle.loads(Path(pickled).read_bytes())
    samples, theirs = [], []
    for prediction in predictions:
        truth = _objects(Path(devkit) / 'Annotations' / f'{prediction["img_id"]}.xml')
        instances = prediction['pred_instances']
        # The devkit's boxes count pixels from 1, mmdet's from 0.
        detections = [
            (int(label), float(score), tuple(np.float32(box).tolist()))
            for label, score, box in zip(
                instances['labels'].tolist(),
                instances['scores'].tolist(),
                instances['bboxes'].tolist(),
                strict=True,
            )
        ]
        easy = [(label, box) for label, box, difficult in truth if not difficult]
        hard = [(label, box) for label, box, difficult in truth if difficult]
        samples.append(_sample(easy, hard, detections))
        theirs.append((truth, detections))
    assert len(samples) == 4952
    _compare(samples, theirs, CLASSES)


def _objects(file: Path) -> list[tuple[int, tuple, bool]]:
    objects = []
    for item in ET.parse(file).getroot().findall('object'):
        box = item.find('bndbox')
        sides = [int(box.findtext(side)) - 1 for side in ('xmin', 'ymin', 'xmax', 'ymax')]
        label = CLASSES.index(item.findtext('name'))
        objects.append((label, tuple(sides), item.findtext('difficult') == '1'))
    return objects


def test_doctor_names_the_images_that_neither_list_of_2007_has(tmp_path, monkeypatch):
    # A set of less than half the published size counts as another data set.
    monkeypatch.setitem(VOC_TOTALS, 'VOC2007/test', (6, None))
    monkeypatch.setitem(VOC_TOTALS, 'VOC2007/trainval', (7, None))
    root = write_devkit(tmp_path, [[('cat', (11, 11, 90, 90), 0)]]) / 'VOC2007'
    lists = root / 'ImageSets/Main'
    names = [f'{number:06}' for number in range(1, 9964)]
    for name in names[:8]:
        os.link(root / 'JPEGImages/0.jpg', root / f'JPEGImages/{name}.jpg')
        os.link(root / 'Annotations/0.xml', root / f'Annotations/{name}.xml')
    (lists / 'trainval.txt').write_text('\n'.join(names[:4]))
    (lists / 'test.txt').write_text('\n'.join(names[4:8]))
    messages = [
        fault.message
        for split in examine(tmp_path, progress=False)
        for fault in split.content.faults
        if fault.kind == 'count'
    ]
    assert messages[0].endswith(
        'lists 4 images; the published set has 6; in neither list: ' + ', '.join(names[8:17])
        + ' and 9946 more'
    )  # fmt: skip
    assert messages[1].startswith(
        'lists 4 images; the published set has 7; in neither list: 000009'
    )
    (lists / 'test.txt').unlink()
    assert not any(
        'in neither list' in fault.message
        for split in examine(tmp_path, progress=False)
        for fault in split.content.faults
    )


def test_folder_of_one_year_of_two_is_an_error_that_names_the_config_for_one(tmp_path):
    root = write_devkit(tmp_path, [[('cat', (11, 11, 90, 90), 0)]])
    (root / 'VOC2007/ImageSets/Main/trainval.txt').write_text('0\n')
    cfg = Config.fromfile(CONFIGS / 'faster_rcnn_r50_cbam_voc.py')
    enter_scope(cfg)
    dataset = cfg.train_dataloader.dataset.dataset.datasets[1]
    with pytest.raises(
        InputError,
        match=r'VOC2012.* has only VOC2007: .* config faster_rcnn_.* or the study voc07_stairnet$',
    ):
        check_dataset(dict(dataset, data_root=f'{root}/'))
