"""Checks before a run: names, folders, data, weights, device, processes.

`prepare` checks the keys of the raw config and adapts it to this machine. `check_run` then builds
the `RunConfig` once. Its checks read this, change nothing, and raise `InputError` with a remedy.
Only the model and the search for unread keys use the raw config.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Literal

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import nn

from ..checkpoints import loading
from ..datasets.validation.config import check_data
from ..datasets.validation.data_root import set_data_root
from ..models.attention_modules import named_plugins
from ..models.build import build_model, check_training_mode
from ..models.channels_last import check_channels_last
from ..models.feature_maps import check_feature_maps
from ..utils.config import enter_scope
from ..utils.environment import check_device
from ..utils.errors import InputError, first_few
from ..utils.files import try_writing
from ..utils.run_config import RunConfig, Settings
from ..utils.runner_types import check_runner_keys
from ..utils.unread_keys import refuse_old_keys
from ..utils.value_types import typed
from .config_names import check_complete, check_names
from .devices import adapt_amp, check_sharding, check_sync_bn
from .unknown_options import warn_unread

Task = Literal['train', 'test']


def prepare(cfg: Config) -> None:
    """Make the checks that training and testing share, and adapt `cfg` to this machine.

    Raises:
        InputError: a key is one of mmdet 2.x or its value has the wrong type; a setting of
            `preflight`, a hook or the type of a hook is misspelt; `preflight.data_root` would
            replace several roots; or there is a GPU, but mmcv's operators are only for the CPU.
    """
    refuse_old_keys(cfg)
    check_runner_keys(cfg)
    check_complete(cfg)
    if data_root := Settings.from_cfg(cfg).data_root:
        set_data_root(cfg, data_root)
    enter_scope(cfg)
    check_sharding(cfg)
    if is_first_process(cfg):
        check_names(cfg)
    drop_worker_options(cfg)
    device, reason = check_device()
    if device == 'cpu' and torch.cuda.is_available():
        raise InputError(
            f'{reason}; or put CUDA_VISIBLE_DEVICES= before the command to use the CPU'
        )


def check_run(cfg: Config, task: Task) -> str | None:
    """Check the data, the model, the weights and the folders of a run, in the first process.

    Returns:
        The checkpoint from which a training with `resume` continues; None if a new training
        starts, or if `load_from` names the checkpoint (which it does not with `resume='auto'`).

    Raises:
        InputError: something is missing, damaged or inconsistent. Only the first fault is named.
    """
    check_task(cfg, task)
    if task == 'train':
        adapt_amp(cfg.get('optim_wrapper') or {})
    if not is_first_process(cfg):
        return None
    run = RunConfig.from_cfg(cfg)
    if task == 'train' and not run.resume:
        check_unused(run.work_dir)
    splits = ('test',) if task == 'test' else ('train', 'val')
    check_data(run, splits, run.settings.check_images)
    check_sync_bn(run, training=task == 'train')
    model = build_model(cfg)
    if cfg.get('channels_last'):
        check_channels_last(model)
    check_feature_maps(cfg, model)
    if task == 'test':
        if run.load_from is not None:
            checkpoint = loading.check_checkpoint(run.load_from, 'checkpoint', model)
            loading.check_same_gates(run.model, checkpoint)
            loading.check_checkpoint_classes(run.splits.get('test'), checkpoint)
        return None
    check_training_mode(cfg, model)
    check_bypassed(run, model)
    warn_unread(cfg, model)
    resume_from = None
    if run.resume and run.load_from is not None and cfg.resume != 'auto':
        checkpoint = loading.check_checkpoint(run.load_from, '--resume', model)
        loading.check_resumable(run.load_from, checkpoint)
        loading.check_same_gates(run.model, checkpoint)
        loading.check_checkpoint_classes(run.splits.get('train'), checkpoint)
    else:
        if run.resume:
            resume_from = loading.last_readable_checkpoint(run.work_dir, model, run.model)
        if run.load_from is not None and resume_from is None:
            checkpoint = loading.check_checkpoint(run.load_from, 'load_from', model, whole=False)
            warn_of_other_classes(run, checkpoint)
    loading.check_pretrained(run.model.pretrained, model)
    check_work_dir(run)
    return resume_from


def check_task(cfg: Config, task: Task) -> None:
    """Raise InputError if a config has no data for a training or a test."""
    if not cfg.get(f'{task}_dataloader'):
        third = 'optim_wrapper' if task == 'train' else 'test_evaluator'
        raise InputError(
            f'the config has no {task}_dataloader, so there is nothing to {task}; give '
            f'{task}_dataloader, {task}_cfg and {third}'
        )


def warn_of_other_classes(run: RunConfig, checkpoint: dict) -> None:
    """Warn if the weights to start from were trained on other classes or in another order.

    The training can still learn the classes of its data, so this is not an error.
    """
    try:
        loading.check_checkpoint_classes(run.splits.get('train'), checkpoint)
    except InputError as error:
        print_log(f'load_from={run.load_from}: {error}', level=logging.WARNING)


def drop_worker_options(cfg: Config) -> None:
    """Remove the options that torch's loaders refuse if `num_workers` is 0."""
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(key) or {}
        if not typed(loader, 'num_workers', int, key, 0):
            for option in ('persistent_workers', 'prefetch_factor', 'timeout'):
                loader.pop(option, None)


def is_first_process(cfg: Config) -> bool:
    """Whether this process checks and downloads; works before torch.distributed is initialised."""
    rank = {'pytorch': 'RANK', 'slurm': 'SLURM_PROCID', 'mpi': 'OMPI_COMM_WORLD_RANK'}
    return int(os.environ.get(rank.get(cfg.get('launcher', 'none'), ''), 0)) == 0


def check_unused(work_dir: str) -> None:
    """Raise InputError if a new run would overwrite the checkpoints of an earlier one."""
    files = [path for path in Path(work_dir).glob('*.pth') if loading.WRITTEN.fullmatch(path.name)]
    files.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    # MMEngine writes last_checkpoint for any name and folder of the checkpoints.
    names = [path.name for path in (Path(work_dir) / 'last_checkpoint', *files) if path.is_file()]
    if names:
        raise InputError(
            f'{work_dir} has {first_few(names)} of an earlier run, which this one would overwrite; '
            'give another --work-dir, continue the earlier run with --resume, or move the files '
            'away'
        )


def check_bypassed(run: RunConfig, model: nn.Module) -> None:
    """Check that no option bypasses the attention.

    Raises:
        InputError: `efficient_conv_bn_eval` names a module that contains attention. It merges
            convolution and norm, and does not call the hooks that apply a plugin after a norm.
    """
    plugins = [plugin for plugin, _ in named_plugins(model)]
    for name in run.conv_bn_eval:
        inside = [plugin for plugin in plugins if plugin.startswith(f'{name}.')]
        if inside:
            raise InputError(
                f'efficient_conv_bn_eval={list(run.conv_bn_eval)} would skip the attention at '
                f'{first_few(inside)}; remove {name!r} from it, or all: --cfg-options '
                'efficient_conv_bn_eval=None'
            )


def check_work_dir(run: RunConfig) -> None:
    """Check that the run can write to its work_dir and to the folder of its checkpoints.

    Raises:
        InputError: it cannot create a folder or write to it.
    """
    paths = {'the work_dir': run.work_dir}
    if run.checkpoint_dir and '://' not in run.checkpoint_dir:
        paths['default_hooks.checkpoint.out_dir'] = run.checkpoint_dir
    for option, path in paths.items():
        try:
            try_writing(path)
        except OSError as error:
            raise InputError(
                f'{option} {path} cannot be written ({error.filename}: {error.strerror}); give a '
                'folder that you can write to, for example with --work-dir'
            ) from None
