"""Checks of a run before it begins: names, folders, data, weights, device, processes.

`prepare` checks the keys of the raw config and adapts it to this machine. `check_run` then builds
the `RunConfig`, once, which its checks read; they raise `InputError` with the remedy and change
nothing. The model, and keys of it that nothing reads, are of the raw config.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Literal

import torch
from mmengine.config import Config
from torch import nn

from ..checkpoints import loading
from ..datasets.validation.config import check_data
from ..datasets.validation.data_root import set_data_root
from ..models.attention_modules import named_plugins
from ..models.build import build_model
from ..utils.config import enter_scope
from ..utils.environment import check_device
from ..utils.errors import InputError, first_few
from ..utils.run_config import RunConfig, Settings
from ..utils.runner_types import check_runner_keys
from ..utils.unread_keys import refuse_old_keys
from ..utils.value_types import typed
from .devices import amp_on_cpu, check_sharding, check_sync_bn
from .names import check_complete, check_names
from .unknown_options import tell_unread

Task = Literal['train', 'test']


def prepare(cfg: Config) -> None:
    """Check what holds for a training and a test, and let `cfg` read the data that it is to read.

    Raises:
        InputError: a key is mmdet 2.x's or of another type; a setting of `preflight`, a hook or its
            type is misspelt; the config's data sets have several roots and `preflight.data_root`
            would replace them; there is a GPU and mmcv's operators are for the CPU alone.
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
        The checkpoint from which a training by `resume=True` goes on; None where it begins, or
        where `load_from` names it.

    Raises:
        InputError: something is missing, damaged, or does not fit the rest; the first of that.
    """
    if task == 'train':
        amp_on_cpu(cfg.get('optim_wrapper') or {})
    if not is_first_process(cfg):
        return None
    run = RunConfig.from_cfg(cfg)
    if task == 'train' and not run.resume:
        check_unused(run.work_dir)
    splits = ('test',) if task == 'test' else ('train', 'val')
    check_data(run, splits, run.settings.check_images)
    check_sync_bn(run, training=task == 'train')
    model = build_model(cfg)
    if task == 'test':
        checkpoint = loading.check_checkpoint(run.load_from, 'checkpoint', model)
        loading.check_same_gates(run.model, checkpoint or {})
        loading.check_checkpoint_classes(run.splits.get('test'), checkpoint or {})
        return None
    check_bypassed(run, model)
    tell_unread(cfg, model)
    resume_from = None
    if not run.resume:
        loading.check_checkpoint(run.load_from, 'load_from', model, whole=False)
    elif run.load_from:
        checkpoint = loading.check_checkpoint(run.load_from, '--resume', model)
        loading.check_resumable(run.load_from, checkpoint)
        loading.check_same_gates(run.model, checkpoint)
        loading.check_checkpoint_classes(run.splits.get('train'), checkpoint)
    else:
        resume_from = loading.last_readable_checkpoint(run.work_dir, model, run.model)
    loading.check_pretrained(run.model.pretrained, model)
    check_work_dir(run)
    return resume_from


def drop_worker_options(cfg: Config) -> None:
    """Leave out what torch's loaders refuse without workers, where `num_workers` is 0."""
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(key) or {}
        if not typed(loader, 'num_workers', int, key, 0):
            for option in ('persistent_workers', 'prefetch_factor', 'timeout'):
                loader.pop(option, None)


def is_first_process(cfg: Config) -> bool:
    """Whether this is the process that checks and downloads, before torch.distributed stands."""
    rank = {'pytorch': 'RANK', 'slurm': 'SLURM_PROCID', 'mpi': 'OMPI_COMM_WORLD_RANK'}
    return int(os.environ.get(rank.get(cfg.get('launcher', 'none'), ''), 0)) == 0


def check_unused(work_dir: str) -> None:
    """Raise InputError where a run that begins would overwrite the checkpoints of another."""
    files = [path for path in Path(work_dir).glob('*.pth') if loading.WRITTEN.fullmatch(path.name)]
    files.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    # Whatever the checkpoints are called and wherever they are written, MMEngine names the last.
    names = [path.name for path in (Path(work_dir) / 'last_checkpoint', *files) if path.is_file()]
    if names:
        raise InputError(
            f'{work_dir} holds {first_few(names)} of a run before, which this one would overwrite; '
            'give another --work-dir, go on with that run by --resume, or move the files away'
        )


def check_bypassed(run: RunConfig, model: nn.Module) -> None:
    """Check that no option goes past the attention.

    Raises:
        InputError: `efficient_conv_bn_eval` names a module that has attention in it: it computes
            convolution and norm in one, without the hooks by which plugins follow a norm.
    """
    plugins = [plugin for plugin, _ in named_plugins(model)]
    for name in run.conv_bn_eval:
        inside = [plugin for plugin in plugins if plugin.startswith(f'{name}.')]
        if inside:
            raise InputError(
                f'efficient_conv_bn_eval={list(run.conv_bn_eval)} would leave out the attention at '
                f'{first_few(inside)}; take {name!r} out of it: --cfg-options '
                'efficient_conv_bn_eval=None'
            )


def check_work_dir(run: RunConfig) -> None:
    """Check that the run can write where it is to: into its work_dir and its checkpoints' folder.

    Raises:
        InputError: a folder cannot be made or written in; nothing is left behind.
    """
    paths = {'the work_dir': run.work_dir}
    if run.checkpoint_dir and '://' not in run.checkpoint_dir:
        paths['default_hooks.checkpoint.out_dir'] = run.checkpoint_dir
    for option, path in paths.items():
        folder = Path(path).absolute()
        try:
            while not folder.exists():
                folder = folder.parent
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InputError(
                f'{option} {path} cannot be written ({folder}: {error.strerror}); give a folder '
                'that can, by --work-dir for one'
            ) from None
