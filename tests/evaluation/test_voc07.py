"""VOC 2007 alone: its data set base, its three scores, the devkit's evaluation beside mmdet's."""

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


@pytest.mark.parametrize('leaf', VOC07)
def test_leaves_of_2007_train_on_trainval_and_score_test_three_ways_one_image_at_a_time(leaf):
    cfg = Config.fromfile(CONFIGS / f'{leaf}.py')
    assert cfg.train_dataloader.dataset.ann_file == 'VOC2007/ImageSets/Main/trainval.txt'
    assert cfg.test_dataloader.dataset.ann_file == 'VOC2007/ImageSets/Main/test.txt'
    assert cfg.test_dataloader.batch_size == 1
    metrics = [(kind_of(one), one.get('eval_mode')) for one in cfg.test_evaluator]
    assert metrics == [('VOCMetric', '11points'), ('VOCMetric', 'area'), ('CocoMetric', None)]
    assert len({one.get('prefix') for one in cfg.test_evaluator[:2]}) == 2


@pytest.mark.parametrize(
    ('batch', 'keep_ratio', 'told'), [(4, True, True), (1, True, False), (4, False, False)]
)
def test_batch_on_which_the_scores_would_depend_is_told(batch, keep_ratio, told, tmp_path, capsys):
    root = write_devkit(tmp_path, [[('cat', (11, 11, 90, 90), 0)]] * 2)
    Image.fromarray(np.zeros((100, 200, 3), np.uint8)).save(root / 'VOC2007/JPEGImages/1.jpg')
    xml = root / 'VOC2007/Annotations/1.xml'
    xml.write_text(xml.read_text().replace('<height>200', '<height>100'))
    cfg = Config.fromfile(CONFIGS / 'faster_rcnn_r50_voc07.py')
    cfg.test_dataloader.batch_size = batch
    cfg.test_dataloader.dataset.data_root = f'{root}/'
    cfg.test_dataloader.dataset.pipeline[1].keep_ratio = keep_ratio
    check_data(RunConfig.from_cfg(cfg), ('test',))
    said = capsys.readouterr()
    option = '2 different shapes .* --cfg-options test_dataloader.batch_size=1'
    assert bool(re.search(option, said.out + said.err)) == told


boxes = st.tuples(*[st.integers(1, 60)] * 4).map(
    lambda four: (four[0], four[1], four[0] + four[2], four[1] + four[3])
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
    """Of scores that are all different: among equal ones the order is nobody's."""
    count = sum(len(found) for _, found in drawn)
    scores = iter(random.sample(range(1, 1000), count))
    samples, theirs = [], []
    for objects, found in drawn:
        own = [(label, next(scores) / 1000, box) for label, box in found]
        kept = [(label, box) for label, box, hard in objects if not hard]
        left_out = [(label, box) for label, box, hard in objects if hard]
        samples.append(_sample(kept, left_out, own))
        # The devkit takes the first of two objects that overlap alike; mmdet, which puts difficult
        # ones last, does so in its own order.
        theirs.append(([(*one, False) for one in kept] + [(*one, True) for one in left_out], own))
    _compare(samples, theirs, CLASSES[:3])


def _sample(kept: list, left_out: list, found: list) -> dict:
    def part(items: list) -> dict:
        return dict(
            labels=torch.tensor([label for label, *_ in items], dtype=torch.long),
            bboxes=torch.tensor([item[-1] for item in items], dtype=torch.float).reshape(-1, 4),
        )

    scores = torch.tensor([score for _, score, _ in found])
    return dict(
        gt_instances=part(kept),
        ignored_instances=part(left_out),
        pred_instances=dict(part(found), scores=scores),
    )


def _compare(samples: list[dict], theirs: list[tuple[list, list]], classes: tuple) -> None:
    """mmdet's metric on `samples` against the devkit's on the same objects and detections."""
    wanted: dict[str, list[float]] = {'11points': [], 'area': []}
    for label in range(len(classes)):
        objects = {
            str(image): [(box, hard) for one, box, hard in truth if one == label]
            for image, (truth, _) in enumerate(theirs)
        }
        if not any(not hard for boxes in objects.values() for _, hard in boxes):
            continue  # mmdet leaves such a class out of the mean
        found = [
            (str(image), score, box)
            for image, (_, own) in enumerate(theirs)
            for one, score, box in own
            if one == label
        ]
        for mode, value in average_precision(objects, found).items():
            wanted[mode].append(value)
    for mode, values in wanted.items():
        with DefaultScope.overwrite_default_scope('mmdet'):
            metric = METRICS.build(dict(type='VOCMetric', eval_mode=mode))
        metric.dataset_meta = dict(classes=classes, dataset_type=None)
        metric.process({}, samples)
        found = metric.evaluate(len(samples))['pascal_voc/mAP']
        assert found == pytest.approx(np.mean(values) if values else 0, abs=1e-6)


def test_mmdet_s_voc_scores_are_the_devkit_s_on_a_detector_s_detections():
    """On what `tools/test.py --out` wrote of the leaf for VOC 2007, where both are named."""
    devkit, pickled = (os.environ.get(f'CBAM_DET_{name}') for name in ('VOC2007', 'DETECTIONS'))
    if not (devkit and pickled):
        pytest.skip('set CBAM_DET_VOC2007 (the folder) and CBAM_DET_DETECTIONS (a pickle)')
    predictions = pickle.loads(Path(pickled).read_bytes())
    samples, theirs = [], []
    for one in predictions:
        truth = _objects(Path(devkit) / 'Annotations' / f'{one["img_id"]}.xml')
        pred = one['pred_instances']
        # The devkit's boxes count pixels from 1, mmdet's from 0.
        own = [
            (int(label), float(score), tuple(np.float32(box).tolist()))
            for label, score, box in zip(
                pred['labels'].tolist(),
                pred['scores'].tolist(),
                pred['bboxes'].tolist(),
                strict=True,
            )
        ]
        kept = [(label, box) for label, box, hard in truth if not hard]
        left_out = [(label, box) for label, box, hard in truth if hard]
        samples.append(_sample(kept, left_out, own))
        theirs.append((truth, own))
    assert len(samples) == 4952
    _compare(samples, theirs, CLASSES)


def _objects(file: Path) -> list[tuple[int, tuple, bool]]:
    found = []
    for item in ET.parse(file).getroot().findall('object'):
        box = item.find('bndbox')
        sides = [int(box.findtext(side)) - 1 for side in ('xmin', 'ymin', 'xmax', 'ymax')]
        label = CLASSES.index(item.findtext('name'))
        found.append((label, tuple(sides), item.findtext('difficult') == '1'))
    return found


def test_doctor_names_the_images_that_neither_list_of_2007_has(tmp_path, monkeypatch):
    # Sets of less than half the published size are others.
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
    said = [
        fault.message
        for split in examine(tmp_path, progress=False)
        for fault in split.content.faults
        if fault.kind == 'count'
    ]
    assert said[0].endswith(
        'lists 4 images, the published one 6; in no list: ' + ', '.join(names[8:17])
        + ' and 9946 more'
    )  # fmt: skip
    assert said[1].startswith('lists 4 images, the published one 7; in no list: 000009')
    (lists / 'test.txt').unlink()
    assert not any(
        'in no list' in fault.message
        for split in examine(tmp_path, progress=False)
        for fault in split.content.faults
    )


def test_one_year_where_two_are_wanted_is_told_the_leaf_for_one(tmp_path):
    root = write_devkit(tmp_path, [[('cat', (11, 11, 90, 90), 0)]])
    (root / 'VOC2007/ImageSets/Main/trainval.txt').write_text('0\n')
    cfg = Config.fromfile(CONFIGS / 'faster_rcnn_r50_cbam_voc.py')
    enter_scope(cfg)
    wanted = cfg.train_dataloader.dataset.dataset.datasets[1]
    with pytest.raises(InputError, match=r'VOC2012.* has VOC2007 alone: .*_voc07 \(faster_rcnn_'):
        check_dataset(dict(wanted, data_root=f'{root}/'))
