"""Synchronised norms, sharding and other runners: what passes, and what is refused."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch
from mmengine.config import Config
from mmengine.model import convert_sync_batchnorm, revert_sync_batchnorm
from mmengine.registry import RUNNERS
from torch import distributed, nn

from cbam_det import CBAM
from cbam_det.engine import devices, launch
from cbam_det.models.build import build_model
from cbam_det.utils.errors import InputError
from cbam_det.utils.run_config import RunConfig

from .random_attention import MAPS, randomise


def config(**options: object) -> Config:
    norm = dict(type=options.pop('norm', 'BN'))
    plugins = [dict(cfg=dict(type='CBAM', norm_cfg=norm), after='layer4.*.bn2')]
    return Config(dict(model=dict(backbone=dict(plugins=plugins)), **options))


PLACE = 'model.backbone.plugins.0.cfg.norm_cfg'
SYNC_ON_CPU = f"^{PLACE} with type='{{}}' needs GPUs, .*: --cfg-options {PLACE}.type=BN$"


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(norm='SyncBN', launcher='pytorch'), SYNC_ON_CPU.format('SyncBN')),
        (dict(norm='MMSyncBN', launcher='pytorch'), SYNC_ON_CPU.format('MMSyncBN')),
        (dict(norm='MMSyncBN'), f'^{PLACE} .* needs a launcher .* {PLACE}.type=BN$'),
        (dict(sync_bn='torch', launcher='pytorch'), "sync_bn='torch' needs GPUs"),
        (dict(sync_bn='yes'), "sync_bn='yes' is unknown; give 'torch', 'mmcv' or None"),
    ],
)
def test_synchronised_norm_that_cannot_be_had_is_refused(options, words, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(InputError, match=words):
        devices.check_sync_bn(RunConfig.from_cfg(config(**options)))


def test_second_runner_of_a_script_uses_the_process_group_of_the_first(monkeypatch):
    created = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(distributed, 'is_initialized', lambda: bool(created))
    monkeypatch.setattr(
        distributed, 'init_process_group', lambda name, timeout: created.append((name, timeout))
    )
    for _ in range(2):
        cfg = config(launcher='pytorch')
        devices.set_timeout(cfg)
        devices.adapt_to_cpu(cfg)
        assert cfg.model_wrapper_cfg['device_ids'] is None
    assert created == [('gloo', timedelta(hours=1))]


def test_timeout_of_the_config_is_kept_and_other_types_are_refused():
    for timeout in (7200, 0.5):
        cfg = config(launcher='pytorch')
        cfg.env_cfg = dict(dist_cfg=dict(backend='nccl', timeout=timeout))
        devices.set_timeout(cfg)
        assert cfg.env_cfg == dict(dist_cfg=dict(backend='nccl', timeout=timeout))
    cfg.env_cfg.dist_cfg.timeout = '1h'
    with pytest.raises(InputError, match=r"env_cfg\.dist_cfg\.timeout='1h'"):
        devices.set_timeout(cfg)


@pytest.mark.parametrize(
    ('gpu', 'options'),
    [
        (True, dict(norm='SyncBN', launcher='pytorch', sync_bn='torch')),
        (True, dict(norm='MMSyncBN', launcher='pytorch')),
        (False, dict(norm='SyncBN')),  # MMEngine makes BatchNorm of it
        (False, dict(norm='BN', launcher='pytorch')),
    ],
)
def test_synchronised_norm_that_can_be_had_passes(gpu, options, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    cfg = config(**options)
    before = cfg.pretty_text
    devices.check_sync_bn(RunConfig.from_cfg(cfg))
    assert cfg.pretty_text == before


def test_sync_bn_in_the_gate_is_batchnorm_in_one_process():
    """MMEngine's own conversion; a single value has no batch statistics in either."""
    synced, plain = (
        CBAM(4, 2, norm_cfg=dict(type=kind, momentum=0.01)) for kind in ('SyncBN', 'BN')
    )
    assert isinstance(synced.spatial_gate.norm, nn.SyncBatchNorm)
    synced = revert_sync_batchnorm(synced)
    randomise(plain)
    synced.load_state_dict(plain.state_dict())
    for x in (MAPS[0], MAPS[0][:1, :, :1, :1]):
        torch.testing.assert_close(synced(x), plain(x))
    buffers = (dict(module.named_buffers()) for module in (synced, plain))
    torch.testing.assert_close(*buffers)


def test_the_option_sync_bn_converts_the_gate_and_keeps_its_options():
    cbam = CBAM(4, 2, norm_cfg=dict(type='BN', momentum=0.03, eps=1e-4), norm_eval=True)
    norm = convert_sync_batchnorm(cbam, 'torch').train().spatial_gate.norm
    assert (type(norm), norm.momentum, norm.eps) == (nn.SyncBatchNorm, 0.03, 1e-4)
    cbam(MAPS[0])
    assert not norm.training and not norm.num_batches_tracked


def test_mmcv_s_sync_bn_is_built_for_the_check_and_follows_norm_eval():
    model = dict(
        type='WithPlugins',
        base_type='ResNet',
        depth=18,
        base_channels=8,
        plugins=[
            dict(
                cfg=dict(type='CBAM', ratio=4, norm_eval=True, norm_cfg=dict(type='MMSyncBN')),
                after='layer4.1.bn2',
            )
        ],
    )
    net = build_model(Config(dict(model=model)))
    assert not torch.distributed.is_initialized()
    gate = next(module for module in net.modules() if isinstance(module, CBAM)).spatial_gate
    assert type(gate.norm).__module__ == 'mmcv.ops.sync_bn'
    gate(torch.rand(2, 64, 3, 3))
    assert not gate.norm.training and not gate.norm.num_batches_tracked


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(runner_type='FlexibleRunner', strategy=dict(type='FSDPStrategy')), 'needs GPUs'),
        (dict(runner_type='FlexibleRunner', strategy=dict(type='DeepSpeedStrategy')), 'needs GPUs'),
        (
            dict(model_wrapper_cfg=dict(type='MMFullyShardedDataParallel')),
            'give --cfg-options model_wrapper_cfg=None runner_type=FlexibleRunner',
        ),
        (dict(strategy=dict(type='DDPStrategy')), "no effect without runner_type='FlexibleRunner'"),
    ],
)
def test_sharding_that_would_not_work_is_refused(options, words, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(InputError, match=words):
        devices.check_sharding(Config(options))


def test_misspelt_runner_is_named_with_what_is_near():
    words = "runner_type='CheckRunner' is not registered; .*did you mean 'CheckedRunner'"
    with pytest.raises(InputError, match=words):
        launch.build_runner(Config(dict(runner_type='CheckRunner')), 'train')


def test_other_runner_is_told_to_go_unchecked(monkeypatch, capsys):
    cfg = Config(dict(runner_type='FlexibleRunner'))
    monkeypatch.setattr(RUNNERS, 'build', lambda given: given)
    assert launch.build_runner(cfg, 'train') is cfg
    assert 'nothing is checked before this run' in capsys.readouterr().out
