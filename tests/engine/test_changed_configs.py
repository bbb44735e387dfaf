"""A wrong key or type of a config is one line with the key's path, before anything is trained."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop

from cbam_det.datasets.validation.config import check_data
from cbam_det.datasets.validation.data_root import set_data_root
from cbam_det.engine import preflight
from cbam_det.engine.runner import CheckedRunner
from cbam_det.models.build import build_model
from cbam_det.utils.config import read_config
from cbam_det.utils.errors import InputError
from cbam_det.utils.run_config import RunConfig

from ..conftest import CONFIG
from ..fuzz_configs import ShippedConfig, begin_run, mutate

DATA_SET = 'train_dataloader.dataset'


@pytest.fixture(scope='module')
def shipped(digits: Path) -> ShippedConfig:
    return ShippedConfig('retinanet_mobilenetv2_cbam_neck_digits', digits)


def test_changed_config_begins_or_is_refused_in_one_line(shipped):
    rng = random.Random(1)
    outcomes = []
    for _ in range(40):
        content, path, _ = mutate(shipped.content, rng)
        outcomes.append(begin_run(content, shipped, path))
    outcomes = {outcome.partition(':')[0] for outcome in outcomes}
    assert outcomes == {'begun', 'refused'}


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'train_cfg': [1]}, 'train_cfg=[1] is a list; give a dictionary or None'),
        ({'default_hooks.checkpoint': 1}, 'default_hooks.checkpoint=1 is a whole number; give a d'),
        ({'train_dataloader.batch_size': '2'}, "train_dataloader.batch_size='2' is a string; give"),
        ({'val_evaluator': None}, 'the config has val_dataloader and val_cfg, but no val_evaluat'),
        ({'val_evaluator.metric': 'box'}, "val_evaluator.metric='box' is unknown; give one of 'bb"),
        ({'val_evaluator.formats': 1}, 'val_evaluator.formats: CocoMetric.__init__() got an unex'),
        ({'randomness.sed': 1}, 'randomness.sed: Runner.set_randomness() got an unexpected keyw'),
        ({'param_scheduler': [{'type': 'LinearLr'}]}, "param_scheduler.0.type='LinearLr' is not"),
        (
            {'optim_wrapper.optimizer.lr': -1},
            'optim_wrapper.optimizer.lr=-1 cannot be used: Invalid learning rate: -1; it must '
            'satisfy 0.0 <= lr',
        ),
        ({'optim_wrapper.optimizer.lr': None}, 'optim_wrapper.optimizer.lr=None is None; give a n'),
        (
            {'train_cfg': dict(_delete_=True, by_epoch=True)},
            'train_cfg has no max_epochs, which EpochBasedTrainLoop needs; give train_cfg.max_ep',
        ),
        (
            {'custom_hooks': [dict(type='PipelineSwitchHook', switch_pipeline=[])]},
            'custom_hooks.0 has no switch_epoch, which PipelineSwitchHook needs; give custom_ho',
        ),
        ({'param_scheduler': [dict(type='LinearLR', start_factor=2)]}, '.0.start_factor=2 cannot'),
        ({'model.neck.out_channels': 'x'}, "model.neck.out_channels='x' is a string; give a whole"),
        (
            {'custom_hooks': [dict(type='EMAHook', _scope_='')]},
            "custom_hooks.0.type has _scope_='' beside it; give the name of a library",
        ),
        ({'default_scope': 'MMDET'}, "default_scope='MMDET' is not an installed library; give"),
        ({'train_dataloader': {'_delete_': True}}, 'but no train_dataloader; give train_dataloade'),
        ({'train_cfg.max_epochs': 0}, 'train_cfg.max_epochs=0 is too small; give 1 or more'),
        ({'val_dataloader.batch_size': -1}, 'val_dataloader.batch_size=-1 is too small; give 1'),
        ({'val_evaluator.metrics': 'bbox'}, 'val_evaluator.metrics is unknown to CocoMetric; did'),
        (
            {'model.neck.plugins': [dict(cfg=dict(type='CBAM'), after='gone')]},
            "model.neck: after='gone' matches no module of FPN",
        ),
        ({'model.backbone.type': 7}, 'model.backbone.type=7 cannot be used: TypeError: type must'),
        (
            {'custom_hooks': [dict(type='EMAHook', ema_type=0.5)]},
            'custom_hooks.0.ema_type=0.5 is a number; give a string',
        ),
        (
            {'custom_hooks': [dict(type='EMAHook', momentum='x')]},
            "custom_hooks.0.momentum='x' is a string; give a number",
        ),
        (
            {'custom_hooks': [dict(type='PipelineSwitchHook', switch_epoch=9, switch_pipeline=5)]},
            'custom_hooks.0.switch_pipeline=5 is a whole number; give a list',
        ),
        (
            {
                'custom_hooks': [
                    dict(
                        type='PipelineSwitchHook',
                        switch_epoch=9,
                        switch_pipeline=[dict(type='LoadImage')],
                    )
                ]
            },
            "custom_hooks.0.switch_pipeline.0.type='LoadImage' is not in",
        ),
    ],
)
def test_wrong_value_is_named_by_its_path(change, words, shipped):
    cfg = Config(shipped.content)
    cfg.merge_from_dict(change)
    (path,) = change
    outcome = begin_run(cfg.to_dict(), shipped, path)
    assert words in outcome and outcome.startswith('refused: ')


def test_traceback_is_shown_where_the_log_level_is_debug(capsys):
    cfg = read_config(str(CONFIG))
    cfg.merge_from_dict({'model.rpn_head.anchor_generator.strides': 1})
    with pytest.raises(
        InputError, match=r'model\.rpn_head\.anchor_generator\.strides=1 is a whole'
    ):
        build_model(cfg)
    assert 'Traceback' not in capsys.readouterr().err
    cfg.log_level = 'DEBUG'
    with pytest.raises(InputError):
        build_model(cfg)
    assert 'Traceback' in capsys.readouterr().err


def test_error_of_an_iteration_keeps_its_traceback(shipped, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise TypeError('of a forward')

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        EpochBasedTrainLoop,
        'run_iter',
        lambda loop, *_: loop.runner.call_hook('before_train_iter', batch_idx=0) or fail(),
    )
    cfg = Config(dict(shipped.content, work_dir='work'))
    with pytest.raises(TypeError, match='of a forward'):
        CheckedRunner.from_cfg(cfg, 'train').train()


OLD_DATA = {
    'list of files': (
        {f'{DATA_SET}.ann_file': ['train.json', 'more.json']},
        'train_dataloader.dataset.ann_file is a list, as in mmdet 2.x; MMDetection 3.x joins '
        "data sets with a wrapper: train_dataloader.dataset=dict(type='ConcatDataset', "
        "datasets=[dict(..., ann_file='train.json'), dict(..., ann_file='more.json')])",
    ),
    'list of sets': (
        {DATA_SET: [dict(type='CocoDataset', ann_file='a.json')] * 2},
        'train_dataloader.dataset is a list, as in mmdet 2.x',
    ),
    'text as prefix': (
        {f'{DATA_SET}.data_prefix': 'train/'},
        f"{DATA_SET}.data_prefix='train/' is a string; give a dictionary: data_prefix="
        "dict(img='train/')",
    ),
    'img_prefix': (
        {f'{DATA_SET}.img_prefix': 'data/train/'},
        f'{DATA_SET}.img_prefix is a key of mmdet 2.x; MMDetection 3.x has '
        "data_prefix=dict(img='data/train/')",
    ),
    'unknown key': (
        {f'{DATA_SET}.test_mod': True},
        f"{DATA_SET}.test_mod is not an option of CocoDataset; did you mean 'test_mode'?",
    ),
    'classes as a set': (
        {f'{DATA_SET}.metainfo.classes': {'dog', 'cat'}},
        ' is a set, which has no order; give the names in their order, '
        f"{DATA_SET}.metainfo.classes=('cat', 'dog')",
    ),
    'upper-case classes': (
        {f'{DATA_SET}.metainfo': dict(CLASSES=('cat', 'dog'))},
        f"{DATA_SET}.metainfo.CLASSES is unknown to mmdet; did you mean 'classes'?",
    ),
    'a class twice': (
        {f'{DATA_SET}.metainfo.classes': ('cat', 'dog', 'cat')},
        f"{DATA_SET}.metainfo.classes.2='cat' is listed twice; list each class once",
    ),
    'misspelt palette': (
        {f'{DATA_SET}.metainfo.pallete': [(1, 2, 3)]},
        f"{DATA_SET}.metainfo.pallete is unknown to mmdet; did you mean 'palette'?",
    ),
}


@pytest.mark.parametrize(('change', 'words'), OLD_DATA.values(), ids=OLD_DATA)
def test_data_as_mmdet_2_named_it_is_one_line_with_the_form_of_3(change, words, digits):
    cfg = Config.fromfile(CONFIG)
    set_data_root(cfg, str(digits))
    cfg.merge_from_dict(change, allow_list_keys=False)
    with pytest.raises(InputError) as error:
        check_data(RunConfig.from_cfg(cfg), ('train',))
    assert words in str(error.value)


def test_metainfo_key_of_the_users_own_is_left_alone(digits):
    cfg = Config.fromfile(CONFIG)
    set_data_root(cfg, str(digits))
    cfg.train_dataloader.dataset.metainfo.version = '1.2'
    check_data(RunConfig.from_cfg(cfg), ('train',))


def test_options_of_workers_are_dropped_where_there_are_none(digits):
    cfg = Config.fromfile(CONFIG)
    cfg.train_dataloader.update(num_workers=0, persistent_workers=True, prefetch_factor=2)
    cfg.val_dataloader.update(num_workers=1, persistent_workers=True)
    preflight.prepare(cfg)
    assert not {'persistent_workers', 'prefetch_factor'} & set(cfg.train_dataloader)
    assert cfg.val_dataloader.persistent_workers
    loader = dict(cfg.train_dataloader, dataset=torch.arange(8), batch_sampler=None)
    assert len(CheckedRunner.build_dataloader(loader)) == 2
