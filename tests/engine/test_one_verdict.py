"""`check_data CONFIG` and the check before a run end with the same message."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cbam_det.engine import preflight
from cbam_det.utils.config import read_config
from cbam_det.utils.errors import InputError

from ..conftest import in_process
from ..datasets.damaged_sets import coco
from ..datasets.test_of_config import plain, write_config

LOAD = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs'),
]
TRAIN, VAL = 'train_dataloader.dataset', 'val_dataloader.dataset'
# What is wrong, by a key of the config, and words of the message.
FAULTS = {
    'a transform of several images': (
        {f'{TRAIN}.pipeline': [*LOAD[:2], dict(type='Mosaic'), LOAD[2]]},
        'Mosaic mixes several images',
    ),
    'no truth in training': (
        {f'{TRAIN}.pipeline': [LOAD[0], LOAD[2]]},
        'the pipeline of CocoDataset loads no annotations',
    ),
    'no inputs for the model': (
        {f'{TRAIN}.pipeline': LOAD[:2]},
        'train_dataloader.dataset.pipeline has no PackDetInputs, so the model gets no images',
    ),
    'no steps in a pipeline': (
        {f'{VAL}.pipeline': []},
        'val_dataloader.dataset.pipeline has no PackDetInputs',
    ),
    'annotations without masks': (
        {f'{TRAIN}.pipeline': [LOAD[0], dict(type='LoadAnnotations', with_mask=True), LOAD[2]]},
        'with_mask=True, but',
    ),
    'a misspelt key of the filter': (
        {f'{TRAIN}.filter_cfg': dict(filter_empty=True)},
        'filter_cfg.filter_empty of CocoDataset is unknown',
    ),
    'a misspelt key of the data set': (
        {f'{TRAIN}.test_mod': True},
        'train_dataloader.dataset.test_mod is not an option of CocoDataset',
    ),
    'a validation without its last batch': (
        {'val_dataloader.drop_last': True},
        'val_dataloader: drop_last=True skips the images',
    ),
    'a validation without empty images': (
        {f'{VAL}.test_mode': False, f'{VAL}.filter_cfg': dict(filter_empty_gt=True)},
        'leaves images out of the evaluation',
    ),
    'a metric without its inputs': (
        {f'{VAL}.pipeline': [*LOAD[:2], dict(type='PackDetInputs', meta_keys=('ori_shape',))]},
        'val_evaluator: CocoMetric needs img_id',
    ),
    'a summary that cannot be made': (
        {'val_evaluator.proposal_nums': [100]},
        'val_evaluator.proposal_nums=[100] must be three numbers',
    ),
    'an overlap above 1': (
        {'val_evaluator.iou_thrs': [0.5, 75]},
        'val_evaluator.iou_thrs=[0.5, 75] must be numbers above 0 and at most 1',
    ),
    'masks of a model without': (
        {'val_evaluator.metric': ['segm']},
        "val_evaluator.metric has 'segm', but the model predicts no masks",
    ),
    'a metric of another evaluator': (
        {'default_hooks': dict(checkpoint=dict(type='CheckpointHook', save_best='voc/mAP'))},
        "give 'coco/mAP'",
    ),
    'an evaluator without its file': ({'val_evaluator.ann_file': 'gone.json'}, 'does not exist'),
    'an evaluator of other images': (
        {'val_evaluator.ann_file': 'train.json'},
        "val_evaluator.ann_file='train.json' has other images",
    ),
    'another number of classes': (
        {'model.bbox_head.num_classes': 80},
        'model.bbox_head.num_classes=80, but the data set has 2 classes',
    ),
    'classes in another order': (
        {f'{VAL}.metainfo': dict(classes=('dog', 'cat'))},
        'lists the classes in another order',
    ),
    'a missing image': ({f'{VAL}.ann_file': 'gone_image.json'}, '1 of 1 images of'),
    'an image in two splits': (
        {f'{VAL}.ann_file': 'both.json', 'val_evaluator.ann_file': 'both.json'},
        'is also in val_dataloader',
    ),
    'an image in two splits, under another name': (
        {f'{VAL}.ann_file': 'copied.json', 'val_evaluator.ann_file': 'copied.json'},
        'copied.JPG of val_dataloader',
    ),
    'width and height swapped': (
        {f'{VAL}.ann_file': 'swapped.json', 'val_evaluator.ann_file': 'swapped.json'},
        'is 48 x 40, but annotated as 40 x 48',
    ),
    'a picture twice in a split': (
        {f'{VAL}.ann_file': 'twice.json', 'val_evaluator.ann_file': 'twice.json'},
        'twice.jpg is the same image as',
    ),
    'images of other channels than the model takes': (
        {'model.backbone': dict(type='ResNet', depth=18, in_channels=1)},
        'loads images of 3 channels, but model.backbone.in_channels=1',
    ),
    'no folder': ({f'{TRAIN}.data_root': 'nowhere'}, 'no data folder nowhere'),
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound config of two images, one to train and one to evaluate."""
    monkeypatch.chdir(tmp_path)
    dataset = plain(coco(tmp_path), pipeline=LOAD)
    content = json.loads((tmp_path / 'train.json').read_text())
    parts = dict(train=content['images'][:1], val=content['images'][1:], both=content['images'])
    parts['gone_image'] = [dict(content['images'][1], file_name='gone.jpg')]
    parts['copied'] = [dict(content['images'][0], file_name='copied.JPG')]
    parts['swapped'] = [dict(content['images'][1], width=40, height=48)]
    parts['twice'] = [content['images'][1], dict(content['images'][1], file_name='twice.jpg', id=9)]
    shutil.copy(tmp_path / 'train/one.jpg', tmp_path / 'train/copied.JPG')
    shutil.copy(tmp_path / 'train/number two.jpg', tmp_path / 'train/twice.jpg')
    for name, images in parts.items():
        ids = {image['id'] for image in images}
        boxes = [box for box in content['annotations'] if box['image_id'] in ids]
        whole = dict(content, images=images, annotations=boxes)
        (tmp_path / f'{name}.json').write_text(json.dumps(whole))
    val = dict(dataset, ann_file='val.json', test_mode=True)
    evaluator = dict(type='CocoMetric', ann_file=str(tmp_path / 'val.json'))
    return write_config(
        *(tmp_path / 'mine.py', dataset, val),
        val_evaluator=evaluator,
        test_evaluator=evaluator,
        work_dir='work',
    )


@pytest.mark.parametrize(('change', 'words'), FAULTS.values(), ids=FAULTS)
def test_faulty_config_has_one_verdict(change, words, config, capsys):
    cfg = read_config(str(config))
    cfg.merge_from_dict(change)
    changed = config.with_name('changed.py')
    cfg.dump(changed)
    with pytest.raises(InputError) as raised:
        preflight.check_run(read_config(str(changed)), 'train')
    assert words in str(raised.value)
    capsys.readouterr()
    assert in_process('check_data')(changed) in (1, 2)
    assert capsys.readouterr().err.splitlines()[-1] == f'error: {raised.value}'


def test_sound_config_passes(config, capsys):
    assert in_process('check_data')(config) == 0
    assert 'val data: ' in capsys.readouterr().out
