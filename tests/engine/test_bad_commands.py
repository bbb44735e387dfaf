"""Mistakes in a command or a config end in one line with the remedy, before anything is written."""

from __future__ import annotations

from pathlib import Path

import mmcv.ops
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from torch import nn

from cbam_det import CBAM
from cbam_det.engine import devices, preflight
from cbam_det.engine.runner import CheckedRunner
from cbam_det.models.build import build_model
from cbam_det.utils.config import find_config, kind_of, override, read_config
from cbam_det.utils.errors import InputError

from ..conftest import CONFIG, CONFIGS, ROOT, free_port, in_process, without_warnings


def test_amp_in_float16_without_a_gpu_is_refused_before_anything_is_read(run, tmp_path):
    options = ('--amp', '--cfg-options', 'optim_wrapper.dtype=float16')
    done = run('train.py', CONFIG, *options, cwd=tmp_path, status=2, CUDA_VISIBLE_DEVICES='')
    assert "error: optim_wrapper.dtype='float16' needs a GPU" in done.stderr
    assert "give optim_wrapper.dtype='bfloat16'" in done.stderr
    assert 'Traceback' not in done.stderr


def test_unknown_config_lists_similar_ones(run, tmp_path):
    done = run('train.py', 'configs/faster_rcnn_r50_cbam_digit.py', cwd=tmp_path, status=2)
    assert 'no config configs/faster_rcnn_r50_cbam_digit.py' in done.stderr
    assert 'faster_rcnn_r50_cbam_digits' in done.stderr
    with pytest.raises(InputError, match='choose from '):
        find_config('something/else.py')


def test_a_shipped_config_that_is_taken_by_its_name_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    path = find_config('configs/faster_rcnn_r50_cbam_digits.py')
    assert Path(path) == CONFIGS / 'faster_rcnn_r50_cbam_digits.py'
    assert capsys.readouterr().err == f'config: {path}\n'
    assert find_config(path) == find_config('faster_rcnn_r50_cbam_digits', announce=False) == path
    assert not capsys.readouterr().err


def test_types_that_are_classes_have_their_names_of_the_registry():
    named = {CBAM: 'CBAM', 'mmdet.ResNet': 'ResNet', nn.SyncBatchNorm: 'SyncBatchNorm', None: ''}
    named |= dict.fromkeys((mmcv.ops.SyncBatchNorm, 'mmcv.ops.SyncBatchNorm'), 'MMSyncBN')
    for kind, name in named.items():
        assert kind_of(dict(type=kind)) == name


def test_every_process_looks_names_up_in_mmdet_not_only_the_one_that_checks(monkeypatch):
    build_loss = classmethod(lambda cls, cfg: MODELS.build(dict(type='L1Loss')))
    monkeypatch.setattr(Runner, 'from_cfg', build_loss)
    monkeypatch.setattr(preflight, 'is_first_process', lambda cfg: False)
    cfg = Config.fromfile(CONFIG)
    cfg.work_dir = 'work'
    cfg.default_scope = None  # as pure Python configs have it
    with DefaultScope.overwrite_default_scope('mmengine'):
        assert type(CheckedRunner.from_cfg(cfg)).__module__.startswith('mmdet.')


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'model.backbone.base_type': 'ResNe'}, "model.backbone.base_type='ResNe' is not in"),
        ({'model.backbone.plugins.0.cfg.norm_cfg': dict(type='BatchNorm')}, 'a type is misspelt'),
        ({'model.backbone.plugins.0.cfg.kernal_size': 3}, "keyword argument 'kernal_size'"),
    ],
)
def test_misspelt_type_or_option_is_one_line(change, words):
    cfg = Config.fromfile(CONFIGS / 'faster_rcnn_r50_cbam_digits.py')
    cfg.merge_from_dict(change)
    with pytest.raises(InputError, match=words):
        build_model(cfg)


BAD_COMMANDS = {
    'no key=value': (['--cfg-options', 'foo'], '--cfg-options takes key=value pairs'),
    'a blank without quotes': (
        ['--cfg-options', 'work_dir=My', 'Drive', 'sync_bn=None'],
        "--cfg-options 'work_dir=My Drive' sync_bn=None",
    ),
    'two thirds of a validation': (
        ['--cfg-options', 'val_evaluator=None'],
        'or --cfg-options val_dataloader=None val_cfg=None',
    ),
    'no such plugin': (
        ['--cfg-options', 'model.backbone.plugins.5.cfg.order=parallel'],
        'do not fit',
    ),
    'unknown order': (
        ['--cfg-options', 'model.backbone.plugins.0.cfg.order=space'],
        "order='space' is unknown; give one of 'channel-spatial'",
    ),
    'misspelt option': (
        ['--cfg-options', 'model.backbone.plugins.0.cfg.reduction=8'],
        "unexpected keyword argument 'reduction'",
    ),
    'misspelt key of a backbone': (
        ['--cfg-options', 'model.backbone.plugin.0.cfg.order=channel'],
        "model.backbone.plugin: ResNet.__init__() got an unexpected keyword argument 'plugin'; "
        "did you mean 'plugins'?",
    ),
    'misspelt hook': (
        ['--cfg-options', 'default_hooks.loger.interval=1'],
        "default_hooks.loger={'interval': 1} has no type; did you mean 'logger'?",
    ),
    'misspelt option of a hook of every run': (
        ['--cfg-options', 'default_hooks.attention_audit.saturation=1'],
        "saturation is not an option of AttentionAuditHook; did you mean 'saturation_at'?",
    ),
    'hook without a type': (
        ['--cfg-options', 'default_hooks.mine.x=1'],
        "default_hooks.mine={'x': 1} has no type; give default_hooks.mine.type too",
    ),
    'misspelt type of a hook': (
        ['--cfg-options', 'default_hooks.ema.type=EmaHook'],
        "default_hooks.ema.type='EmaHook' is not registered; check its spelling, or import its "
        "module with custom_imports; did you mean 'EMAHook'",
    ),
    'misspelt setting of the checks': (
        ['--cfg-options', 'preflight.check_image=True'],
        "preflight.check_image is unknown; did you mean 'check_images'?",
    ),
    'key of an inner part alone': (
        ['--cfg-options', 'val_interval=2'],
        'the option val_interval would have no effect (train_cfg.val_interval)',
    ),
    'key of another part': (
        ['--cfg-options', 'model.neck.depth=3'],
        "model.neck.depth: FPN.__init__() got an unexpected keyword argument 'depth'; remove "
        'it, or give _delete_=True beside the type if a base config sets it',
    ),
    'misspelt key of the config': (
        ['--cfg-options', 'optim_wraper.accumulative_counts=4'],
        "the option optim_wraper would have no effect; did you mean 'optim_wrapper'?",
    ),
    'launcher without torchrun': (['--launcher', 'pytorch'], f'use {ROOT}/tools/dist_train.sh'),
    'checkpoint to resume from is gone': (
        ['--resume', 'gone.pth'],
        'the checkpoint gone.pth (--resume) does not exist',
    ),
    'batch size of the learning rate': (
        ['--auto-scale-lr', '--cfg-options', 'auto_scale_lr=None'],
        'does not give the batch size of its learning rate',
    ),
}


@pytest.mark.parametrize(('options', 'words'), BAD_COMMANDS.values(), ids=BAD_COMMANDS)
def test_bad_command_ends_in_one_line_before_anything_is_written(
    options, words, digits, tmp_path, monkeypatch, capsys
):
    """In this process, which has imported everything; the tests above start the tools."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('RANK', raising=False)
    assert in_process('train')(CONFIG, '--data-root', digits, *options) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and error[0].startswith('error: ') and words in error[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (['--out', 'a.json'], '--out a.json: predictions are written as .pkl; end the name'),
        (['--launcher', 'pytorch'], f'use {ROOT}/tools/dist_test.sh'),
        (['--show-dir', 'a'], 'need default_hooks.visualization, which mine.py does not have'),
        (
            ['--show', '--cfg-options', 'default_hooks=None'],
            'need default_hooks.visualization, which mine.py does not have',
        ),
        ([], 'the checkpoint gone.pth does not exist'),
    ],
)
def test_bad_command_of_a_test_ends_in_one_line_before_anything_is_written(
    options, words, digits, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('RANK', raising=False)
    hooks = "default_hooks = dict(_delete_=True, logger=dict(type='LoggerHook'))"
    Path('mine.py').write_text(f'_base_ = {str(CONFIG)!r}\n{hooks}\n')
    checkpoint = 'mine.py' if options else 'gone.pth'  # a missing file is reported first
    assert in_process('test')('mine.py', checkpoint, '--data-root', digits, *options) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and error[0].startswith('error: ') and words in error[0]
    assert [path.name for path in tmp_path.iterdir()] == ['mine.py']


def test_ablation_of_a_config_without_attention_is_named():
    cfg = Config.fromfile(CONFIGS / 'faster_rcnn_r50_digits.py')
    cfg.merge_from_dict({'model.backbone.plugins.0.cfg.order': 'channel'})
    with pytest.raises(InputError, match='can change only plugins that the config has: use the'):
        build_model(cfg)


def test_misspelt_key_of_the_schedule_is_named(digits, tmp_path, monkeypatch, capsys):
    options = ['--work-dir', str(tmp_path), '--data-root', str(digits)]
    options += ['--cfg-options', 'train_cfg.max_epoch=1']
    assert in_process('train')(CONFIG, *options) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('error: train_cfg.max_epoch: EpochBasedTrainLoop.__init__() got ')
    assert error.endswith("argument 'max_epoch'; did you mean 'max_epochs'?")


def test_misspelt_key_of_a_config_s_own_is_told(capsys):
    cfg = Config(dict(optim_wraper=dict(accumulative_counts=4), train_pipeline=[]))
    preflight.check_names(cfg)
    assert capsys.readouterr().out == (
        "MMEngine does not read the key optim_wraper of the config; did you mean 'optim_wrapper'?\n"
    )


def test_variable_of_a_config_that_an_option_comes_too_late_for_is_told(capsys):
    cfg = override(Config.fromfile(CONFIG), dict(max_epochs=2, custom=3))
    assert cfg.train_cfg.max_epochs == 5
    assert capsys.readouterr().err.splitlines() == [
        'the option max_epochs: MMEngine does not read this key, and the config has already used '
        'its own value',
        'the option custom: MMEngine does not read this key',
    ]


@pytest.mark.parametrize('name', ['epoch_2.pth', 'iter_90.pth', 'stopped.pth', 'last_checkpoint'])
def test_run_that_would_overwrite_another_one_s_checkpoints_does_not_begin(
    name, digits, tmp_path, monkeypatch, capsys
):
    (tmp_path / name).write_text('of an earlier run')
    options = ['--work-dir', str(tmp_path), '--data-root', str(digits)]
    assert in_process('train')(CONFIG, *options) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f'{tmp_path} has {name} of an earlier run, which this one would overwrite' in error
    assert (
        'give another --work-dir, continue the earlier run with --resume, or move the files'
        in error
    )
    assert [path.name for path in tmp_path.iterdir()] == [name]
    (tmp_path / name).rename(tmp_path / 'converted.pth')  # which no run writes
    preflight.check_unused(str(tmp_path))


@pytest.mark.parametrize(
    'text', ['model = dict(', "_base_ = 'mmdet::no/such.py'", "_base_ = './absent.py'"]
)
def test_config_that_cannot_be_read_is_named(text, tmp_path):
    (tmp_path / 'mine.py').write_text(text)
    with pytest.raises(InputError, match='cannot be read as a config'):
        read_config(str(tmp_path / 'mine.py'))


def test_several_processes_repeat_the_error_as_their_last_line(run, tmp_path):
    config = CONFIGS / 'faster_rcnn_r50_cbam.py'
    environment = dict(PORT=str(free_port()), OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    done = run('dist_train.sh', config, 2, cwd=tmp_path, status=1, **environment)
    assert done.stderr.splitlines()[-1].startswith('error: no data folder data/coco')


def test_picture_of_another_kind_is_refused_before_the_work(run, tmp_path):
    done = run('visualize.py', 'curves', 'nowhere', '--out', 'a.pdf', cwd=tmp_path, status=2)
    message = 'error: a.pdf: pictures are written as .png, .svg or .jpg; end the name in one'
    assert without_warnings(done.stderr) == f'{message}\n'


def test_launcher_that_needs_gpus_is_refused_on_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    cfg = Config(dict(launcher='slurm'))
    with pytest.raises(InputError, match='on CPUs use tools'):
        devices.adapt_to_cpu(cfg)
