"""Checks of a run before it begins: names, folders, data, weights, device, processes.

They take a merged config, raise `InputError` with the remedy and change nothing else. What a config
needs on this machine before a runner is built of it (`prepare`, `adapt_to_cpu`) is the exception.
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Literal

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import HOOKS, Registry
from torch import nn

from ..checkpoints import loading
from ..datasets.validation.config import check_data, set_data_root
from ..models.attention_modules import named_plugins
from ..models.build import build_model
from ..utils.config import (
    enter_scope,
    kind_of,
    near_hint,
    registered_class,
    registered_names,
)
from ..utils.environment import check_device
from ..utils.errors import InputError, first_few
from ..utils.run_config import Split
from ..utils.unread_keys import RUNNER_KEYS, refuse_old_keys, unused_keys
from ..utils.value_types import check_runner_keys, shortened, typed
from .devices import amp_on_cpu, check_sharding, check_sync_bn
from .split_checks import check_splits, note_limits
from .unknown_options import check_options, hook_options, tell_unread

Task = Literal['train', 'test']
# What each run has beside MMEngine's default hooks, by its key in `default_hooks`; None there
# leaves one out. The audit is for models with a plugin.
OWN_HOOKS = dict(
    attention_audit=dict(type='AttentionAuditHook'),
    exact_resume=dict(type='ExactResumeHook'),
    finite_losses=dict(type='FiniteLossesHook'),
    stop_signals=dict(type='StopSignalsHook'),
    terminal=dict(type='TerminalHook'),
)
SETTINGS = dict(data_root=None, check_images=False)  # of a config's `preflight`


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
    if data_root := _settings(cfg)['data_root']:
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
    if task == 'train' and not cfg.get('resume'):
        check_unused(cfg.work_dir)
    splits = ('test',) if task == 'test' else ('train', 'val')
    for name in splits:
        Split.from_cfg(cfg, name)  # checks the types of its keys, which what follows reads
    check_splits(cfg, splits)
    note_limits(cfg)
    check_data(cfg, splits, _settings(cfg)['check_images'])
    check_sync_bn(cfg, training=task == 'train')
    model = build_model(cfg)
    if task == 'test':
        checkpoint = loading.check_checkpoint(cfg.get('load_from'), 'checkpoint', model)
        loading.check_same_gates(cfg, checkpoint or {})
        loading.check_checkpoint_classes(cfg, checkpoint or {})
        return None
    check_bypassed(cfg, model)
    tell_unread(cfg, model)
    resume_from = None
    if not cfg.get('resume'):
        loading.check_checkpoint(cfg.get('load_from'), 'load_from', model, whole=False)
    elif cfg.get('load_from'):
        checkpoint = loading.check_checkpoint(cfg.load_from, '--resume', model)
        loading.check_resumable(cfg.load_from, checkpoint)
        loading.check_same_gates(cfg, checkpoint)
        loading.check_checkpoint_classes(cfg, checkpoint, 'train')
    else:
        resume_from = loading.last_readable_checkpoint(cfg.work_dir, model, cfg)
    loading.check_pretrained(cfg, model)
    check_work_dir(cfg)
    return resume_from


def _settings(cfg: Config) -> dict:
    settings = typed(cfg, 'preflight', dict | None, '') or {}
    for key in settings:
        if key not in SETTINGS:
            raise InputError(
                f'preflight.{key} is unknown{near_hint(key, SETTINGS)}; it has '
                f'{first_few(list(SETTINGS))}'
            )
    typed(settings, 'data_root', str | None, 'preflight')
    typed(settings, 'check_images', bool | None, 'preflight')
    return {**SETTINGS, **settings}


def check_complete(cfg: Config) -> None:
    """Check that a training, a validation and a test each have all of their three keys, or none.

    Raises:
        InputError: one or two of them are absent.
    """
    thirds = dict(train='optim_wrapper', val='val_evaluator', test='test_evaluator')
    for split, third in thirds.items():
        keys = (f'{split}_dataloader', f'{split}_cfg', third)
        absent = [key for key in keys if cfg.get(key) is None]
        if 0 < len(absent) < len(keys):
            given = [key for key in keys if key not in absent]
            raise InputError(
                f'the config has {" and ".join(given)}, but no {" and no ".join(absent)}; give '
                f'{" and ".join(absent)} too, or --cfg-options '
                f'{" ".join(f"{key}=None" for key in given)}'
            )


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


def check_names(cfg: Config) -> None:
    """Name what is misspelt: hooks, their types and options, and keys of the config.

    A key that is near to one of MMEngine's is only told: it may be the config's own.

    Raises:
        InputError: a default hook has no type, which a misspelt one lacks; a hook's type is not
            registered, or has no such option; a dictionary has a key that nothing reads.
    """
    default = cfg.get('default_hooks') or {}
    for name, hook in default.items():
        path = f'default_hooks.{name}'
        if not isinstance(hook, dict):
            continue  # None, or a hook that is made
        hook = {**OWN_HOOKS.get(name, {}), **hook}
        if not hook.get('type'):
            near = near_hint(name, {*default, *OWN_HOOKS} - {name})
            raise InputError(f'{path}={hook} has no type{near or f"; give {path}.type too"}')
        _check_hook(path, hook)
    for number, hook in enumerate(cfg.get('custom_hooks') or []):
        if isinstance(hook, dict) and hook.get('type'):
            _check_hook(f'custom_hooks.{number}', hook)
    check_options(cfg)
    unused = unused_keys(cfg)
    for key in cfg:
        near = '' if key in RUNNER_KEYS else near_hint(key, RUNNER_KEYS, 0.9)
        if near or key in unused:
            near = near or ', and the config does not use it'
            print_log(f'MMEngine reads no {key} of the config{near}', level=logging.WARNING)


def _check_hook(path: str, hook: dict) -> None:
    """Raise InputError where no registry knows a hook's type, or the type not its options."""
    hook_class = registered(HOOKS, hook['type'], f'{path}.type', hook.get('_scope_'))
    parameters = hook_options(hook_class)
    if parameters is None:
        return
    for option in hook:
        if option not in {*parameters, 'type', 'priority', '_scope_'}:
            raise InputError(
                f'{path}.{option} is unknown, {kind_of(hook)} has no such option'
                f'{near_hint(option, parameters)}'
            )


def registered(registry: Registry, kind: str | type, path: str, scope: str | None = None) -> type:
    """The class that a name of a config stands for, looked up in the config's scope.

    Args:
        registry: MMEngine's of its kind.
        kind: the name, or the class itself.
        path: where the config has it, for the message.
        scope: one of its own.

    Raises:
        InputError: no registry knows the name; what is near is listed.
    """
    if not isinstance(kind, str):
        if not callable(kind):
            raise InputError(f"{path}={shortened(kind)} is no type; give a name, 'LoggerHook' say")
        return kind
    if not isinstance(scope, str | None):
        raise InputError(f'{path} has _scope_={shortened(scope)} beside it; give a string')
    found = registered_class(registry, kind, scope)
    if found is None:
        with registry.switch_scope_and_registry(scope) as own:
            near = near_hint(kind, registered_names(own))
        raise InputError(
            f'{path}={kind!r} is not registered{near}; check its spelling, or import its module '
            'with custom_imports'
        )
    return found


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


def check_bypassed(cfg: Config, model: nn.Module) -> None:
    """Check that no option goes past the attention.

    Raises:
        InputError: `efficient_conv_bn_eval` names a module that has attention in it: it computes
            convolution and norm in one, without the hooks by which plugins follow a norm.
    """
    names = typed(cfg, 'efficient_conv_bn_eval', str | list | None, '') or ()
    names = [names] if isinstance(names, str) else list(names)
    plugins = [plugin for plugin, _ in named_plugins(model)]
    for name in names:
        inside = [plugin for plugin in plugins if plugin.startswith(f'{name}.')]
        if inside:
            raise InputError(
                f'efficient_conv_bn_eval={names} would leave out the attention at '
                f'{first_few(inside)}; take {name!r} out of it: --cfg-options '
                'efficient_conv_bn_eval=None'
            )


def check_work_dir(cfg: Config) -> None:
    """Check that the run can write where it is to: into its work_dir and its checkpoints' folder.

    Raises:
        InputError: a folder cannot be made or written in; nothing is left behind.
    """
    paths = {'the work_dir': cfg.work_dir}
    checkpoint_hook = (cfg.get('default_hooks') or {}).get('checkpoint')
    if isinstance(checkpoint_hook, dict):
        out_dir = typed(checkpoint_hook, 'out_dir', str | None, 'default_hooks.checkpoint')
        if out_dir and '://' not in out_dir:
            paths['default_hooks.checkpoint.out_dir'] = out_dir
    for option, path in paths.items():
        folder = Path(path).absolute()
        while not folder.exists():
            folder = folder.parent
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InputError(
                f'{option} {path} cannot be written ({folder}: {error.strerror}); give a folder '
                'that can, by --work-dir for one'
            ) from None
