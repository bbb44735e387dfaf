"""A run does not begin if an evaluator has other images, boxes or classes than its loader."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config

from cbam_det.checkpoints.loading import check_checkpoint_classes
from cbam_det.datasets.validation.config import check_data
from cbam_det.utils.errors import InputError
from cbam_det.utils.run_config import RunConfig
from cbam_det.utils.split_config import Split

from ..datasets.damaged_sets import coco


def run_on(root: Path, **evaluator: object) -> Config:
    """A config whose validation reads `val.json` in `root`, two images of cats and dogs."""
    dataset = coco(root)
    (root / 'train.json').rename(root / 'val.json')
    dataset.update(ann_file='val.json', test_mode=True)
    val_evaluator = dict(type='CocoMetric', ann_file=str(root / 'val.json'), **evaluator)
    model = dict(type='RetinaNet', bbox_head=dict(type='RetinaHead', num_classes=2))
    return Config(
        dict(
            model=model,
            val_dataloader=dict(batch_size=1, dataset=dataset),
            val_evaluator=val_evaluator,
        )
    )


def changed(file: Path, to: Path, change: Callable[[dict], object]) -> str:
    content = json.loads(file.read_text())
    change(content)
    to.write_text(json.dumps(content))
    return str(to)


def first_box(content: dict) -> None:
    content['annotations'][0]['bbox'] = [0, 0, 9, 9]


def other_ids(content: dict) -> None:
    for image in content['images']:
        image['id'] += 1000
    for annotation in content['annotations']:
        annotation['image_id'] += 1000


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (first_box, r'has other boxes \(2 are in only one'),
        (other_ids, r'has other images \(2, not 2'),
    ],
    ids=['boxes', 'images'],
)
def test_evaluator_with_another_file_than_the_loader_s_stops_the_run(change, message, tmp_path):
    cfg = run_on(tmp_path)
    check_data(RunConfig.from_cfg(cfg), ('val',))
    file = tmp_path / 'val.json'
    cfg.val_evaluator.ann_file = changed(file, tmp_path / 'same.json', lambda content: None)
    check_data(RunConfig.from_cfg(cfg), ('val',))
    cfg.val_evaluator.ann_file = changed(file, tmp_path / 'old.json', change)
    with pytest.raises(InputError, match=message) as raised:
        check_data(RunConfig.from_cfg(cfg), ('val',))
    assert f'--cfg-options val_evaluator.ann_file={file}' in str(raised.value)


def test_several_files_of_a_loader_need_several_files_of_the_evaluator(tmp_path):
    cfg = run_on(tmp_path)
    first = cfg.val_dataloader.dataset
    changed(tmp_path / 'val.json', tmp_path / 'more.json', other_ids)
    cfg.val_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[first, dict(first, ann_file='more.json')]
    )
    with pytest.raises(InputError, match=r'val_dataloader reads 2 files .* join them in one file'):
        check_data(RunConfig.from_cfg(cfg), ('val',))
    cfg.val_evaluator.ann_file = None
    check_data(RunConfig.from_cfg(cfg), ('val',))
    cfg.val_dataloader.dataset.datasets[1].ann_file = 'val.json'
    with pytest.raises(InputError, match='both have the image id 1, so val_evaluator would treat'):
        check_data(RunConfig.from_cfg(cfg), ('val',))
    cfg.val_dataloader.dataset.datasets[1].ann_file = 'more.json'
    files = [str(tmp_path / name) for name in ('val.json', 'more.json')]
    metrics = [dict(type='CocoMetric', ann_file=file) for file in files]
    cfg.val_evaluator = dict(type='MultiDatasetsEvaluator', metrics=metrics)
    check_data(RunConfig.from_cfg(cfg), ('val',))
    cfg.val_evaluator.metrics.reverse()
    with pytest.raises(InputError, match=r'metrics\.0\.ann_file=.*more\.json. has other images'):
        check_data(RunConfig.from_cfg(cfg), ('val',))


def test_loader_of_a_part_of_the_evaluator_s_file_is_an_error(tmp_path):
    cfg = run_on(tmp_path)
    cfg.val_dataloader.dataset.indices = 1
    with pytest.raises(InputError, match=r'val_dataloader reads only a part of it \(indices=1\)'):
        check_data(RunConfig.from_cfg(cfg), ('val',))


def test_metric_of_masks_needs_a_model_with_masks(tmp_path):
    cfg = run_on(tmp_path, metric=['bbox', 'segm'])
    with pytest.raises(InputError, match="'segm', but the model predicts no masks"):
        check_data(RunConfig.from_cfg(cfg), ('val',))
    cfg.model.mask_head = dict(type='FCNMaskHead', num_classes=2)
    check_data(RunConfig.from_cfg(cfg), ('val',))


def test_classes_of_training_validation_and_checkpoint_have_one_order(tmp_path):
    cfg = run_on(tmp_path)
    reversed_classes = changed(
        tmp_path / 'val.json',
        tmp_path / 'reversed.json',
        lambda content: content['categories'].reverse(),
    )
    train = dict(
        cfg.val_dataloader.dataset, ann_file=reversed_classes, metainfo=dict(classes=('dog', 'cat'))
    )
    cfg.train_dataloader = dict(batch_size=1, dataset=train)
    with pytest.raises(
        InputError, match=r'val_dataloader.dataset has the classes cat, dog, but .* has dog, cat'
    ):
        check_data(RunConfig.from_cfg(cfg), ('train', 'val'))
    cfg.test_dataloader = cfg.val_dataloader
    weights = dict(meta=dict(dataset_meta=dict(classes=('dog', 'cat'))))
    with pytest.raises(InputError, match='trained on the classes dog, cat, but test_dataloader'):
        check_checkpoint_classes(Split.from_cfg(cfg, 'test'), weights)
    weights['meta']['dataset_meta']['classes'] = ('cat', 'dog')
    check_checkpoint_classes(Split.from_cfg(cfg, 'test'), weights)
