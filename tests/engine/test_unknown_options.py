"""Keys that no class complains of are named, at any depth where they are known."""

from __future__ import annotations

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from cbam_det.engine.preflight import check_names
from cbam_det.engine.unknown_options import warn_unread
from cbam_det.models.build import build_model
from cbam_det.utils.errors import InputError

from ..conftest import CONFIG

OPTIM = 'optim_wrapper'
UNKNOWN = {
    f'{OPTIM}.paramwise_cfg.norm_decay_multi': 'norm_decay_mult',
    f'{OPTIM}.paramwise_cfg.custom_keys': {'inserted': dict(lr_multi=10)},
    f'{OPTIM}.clip_grad.max_normal': 'max_norm',
    'env_cfg.cudnn_benchmarks': 'cudnn_benchmark',
    'env_cfg.mp_cfg.mp_start': 'mp_start_method',
    'auto_scale_lr.base_batch': 'base_batch_size',
    'default_hooks.checkpoint.intervall': 'interval',
    'default_hooks.checkpoint.max_keep_ckpt': 'max_keep_ckpts',
}


def test_key_that_would_be_passed_over_or_fail_later_is_refused_with_what_is_near():
    whole = Config.fromfile(CONFIG)
    check_names(whole)
    for key, value in UNKNOWN.items():
        cfg = Config(whole.to_dict())
        if isinstance(value, dict):
            cfg.merge_from_dict({key: value})
            path, near = f'{key}.inserted.lr_multi', 'lr_mult'
        else:
            cfg.merge_from_dict({key: 1})
            path, near = key, value
        with pytest.raises(
            InputError, match=f"{path} is (unknown|not an option).*; did you mean '{near}'"
        ):
            check_names(cfg)


@pytest.mark.parametrize('key', ['bias_lr_mult', 'norm_decay_mult', 'custom_keys.cbam.lr_mult'])
def test_multiplier_that_would_reverse_the_steps_is_refused(key):
    cfg = Config(dict(optim_wrapper=dict(paramwise_cfg=dict(custom_keys={}))))
    cfg.merge_from_dict({f'{OPTIM}.paramwise_cfg.{key}': 0})
    check_names(cfg)
    cfg.merge_from_dict({f'{OPTIM}.paramwise_cfg.{key}': -0.1})
    with pytest.raises(InputError, match=rf'^{OPTIM}\.paramwise_cfg\.{key}=-0\.1 would'):
        check_names(cfg)


def test_other_constructor_of_the_optimizer_has_keys_of_its_own():
    wrapper = dict(
        constructor='LearningRateDecayOptimizerConstructor',
        paramwise_cfg=dict(decay_rate=0.7, num_layers=6),
    )
    check_names(Config(dict(optim_wrapper=wrapper)))


def test_optimizer_of_another_library_is_looked_up_in_its_scope():
    pytest.importorskip('mmpretrain')
    init_default_scope('mmdet')
    optimizer = dict(type='Lamb', _scope_='mmpretrain')
    check_names(Config(dict(optim_wrapper=dict(optimizer=optimizer))))
    with pytest.raises(InputError, match=r"optim_wrapper.optimizer.type='Lamm' is not registered"):
        check_names(Config(dict(optim_wrapper=dict(optimizer=dict(optimizer, type='Lamm')))))


def test_key_that_no_source_of_its_readers_has_is_warned_of(capsys):
    cfg = Config.fromfile(CONFIG)
    model = build_model(cfg)
    warn_unread(cfg, model)
    assert capsys.readouterr().out == ''
    inserted = {'inserted': dict(lr_mult=10), 'insrted': dict(lr_mult=10)}
    cfg.merge_from_dict(
        {
            'model.test_cfg.rcnn.score_th': 0.3,
            'model.train_cfg.rpn_proposal.max_per_imgs': 100,
            'optim_wrapper.paramwise_cfg.custom_keys': inserted,
        }
    )
    warn_unread(cfg, model)
    assert capsys.readouterr().out.splitlines() == [
        'model.train_cfg.rpn_proposal: nothing reads its key max_per_imgs; did you mean '
        "'max_per_img'?",
        "model.test_cfg.rcnn: nothing reads its key score_th; did you mean 'score_thr' or 'score'?",
        'optim_wrapper.paramwise_cfg.custom_keys: no parameter has insrted in its name; did '
        "you mean 'inserted'?",
    ]
