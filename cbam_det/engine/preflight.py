"""Checks of a run before it begins: names, folders, data, weights, device, processes.

They take a merged config, raise `InputError` with the remedy and change nothing else. What a config
needs on this machine before a runner is built of it (`prepare`, `adapt_to_cpu`) is the exception.
"""

from __future__ import annotations

import copy
import inspect
import logging
import os
import tempfile
from pathlib import Path
from typing import Literal

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS, Registry
from torch import distributed

from ..checkpoints import loading
from ..datasets.validation.config import check_data, set_data_root
from ..models.build import build_model
from ..utils.config import RUNNER_KEYS, enter_scope, kind_of, near_hint, walk
from ..utils.environment import check_device
from ..utils.errors import InputError, first_few

Task = Literal['train', 'test']
GPU_STRATEGIES = ('FSDPStrategy', 'DeepSpeedStrategy', 'ColossalAIStrategy')
# What each run has beside MMEngine's default hooks, by its key in `default_hooks`; None there
# leaves one out. The audit is for models with a CBAM.
OWN_HOOKS = dict(
    attention_audit=dict(type='AttentionAuditHook'),
    exact_resume=dict(type='ExactResumeHook'),
    finite_losses=dict(type='FiniteLossesHook'),
    stop_signals=dict(type='StopSignalsHook'),
)
SETTINGS = dict(data_root=None, check_images=False)  # of a config's `preflight`


def prepare(cfg: Config) -> None:
    """Check what holds for a training and a test, and let `cfg` read the data that it is to read.

    Raises:
        InputError: there is no work_dir; a setting of `preflight`, a hook or its type is misspelt
            or of another type; the config's data sets have several roots and
            `preflight.data_root` would replace them; there is a GPU and mmcv's operators are for
            the CPU alone.
    """
    if not cfg.get('work_dir'):
        raise InputError(
            "the config has no work_dir, the folder of logs and checkpoints; give work_dir='...' "
            'in it, or --work-dir to a tool'
        )
    if data_root := _settings(cfg)['data_root']:
        set_data_root(cfg, data_root)
    enter_scope(cfg)
    check_sharding(cfg)
    if is_first_process(cfg):
        check_names(cfg)
    device, reason = check_device()
    if device == 'cpu' and _has_gpu():
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
    check_data(cfg, splits, _settings(cfg)['check_images'])
    check_sync_bn(cfg, training=task == 'train')
    model = build_model(cfg)
    if task == 'test':
        checkpoint = loading.check_checkpoint(cfg.get('load_from'), 'checkpoint', model)
        loading.check_same_gates(cfg, checkpoint or {})
        loading.check_checkpoint_classes(cfg, checkpoint or {})
        return None
    resume_from = None
    if not cfg.get('resume'):
        loading.check_checkpoint(cfg.get('load_from'), 'load_from', model, whole=False)
    elif cfg.get('load_from'):
        checkpoint = loading.check_checkpoint(cfg.load_from, '--resume', model)
        loading.check_same_gates(cfg, checkpoint)
    else:
        resume_from = loading.last_readable_checkpoint(cfg.work_dir, model, cfg)
    loading.check_pretrained(cfg)
    check_work_dir(cfg)
    return resume_from


def _settings(cfg: Config) -> dict:
    settings = cfg.get('preflight')
    if settings is None:
        return SETTINGS
    if not isinstance(settings, dict):
        raise InputError(
            f'preflight={settings!r}: it takes a dict of settings, such as '
            "preflight=dict(data_root='data/coco', check_images=True)"
        )
    for key in settings:
        if key not in SETTINGS:
            raise InputError(
                f'preflight.{key} is unknown{near_hint(key, SETTINGS)}; it has '
                f'{first_few(list(SETTINGS))}'
            )
    settings = {**SETTINGS, **settings}
    if not isinstance(settings['data_root'], (str, type(None))):
        raise InputError(f'preflight.data_root={settings["data_root"]!r}; give a folder as a text')
    if not isinstance(settings['check_images'], bool):
        raise InputError(f'preflight.check_images={settings["check_images"]!r}; give True or False')
    return settings


def is_first_process(cfg: Config) -> bool:
    """Whether this is the process that checks and downloads, before torch.distributed stands."""
    rank = {'pytorch': 'RANK', 'slurm': 'SLURM_PROCID', 'mpi': 'OMPI_COMM_WORLD_RANK'}
    return int(os.environ.get(rank.get(cfg.get('launcher', 'none'), ''), 0)) == 0


def check_names(cfg: Config) -> None:
    """Name what is misspelt: hooks, their types and options, and keys of the config.

    A key that is near to one of MMEngine's is only told: it may be the config's own.

    Raises:
        InputError: a default hook has no type, which a misspelt one lacks; a hook is of another
            type than a dict or `Hook`; a hook's type is not registered, or has no such option.
    """
    default = cfg.get('default_hooks') or {}
    for name, hook in default.items():
        path = f'default_hooks.{name}'
        if not isinstance(hook, dict):
            if not isinstance(hook, (Hook, type(None))):
                raise InputError(
                    f'{path}={hook!r}: it takes a dict of options, or None, which leaves the hook '
                    'out'
                )
            continue
        hook = {**OWN_HOOKS.get(name, {}), **hook}
        if not hook.get('type'):
            near = near_hint(name, {*default, *OWN_HOOKS} - {name})
            raise InputError(f'{path}={hook} has no type{near or f"; give {path}.type too"}')
        _check_hook(path, hook)
    for number, hook in enumerate(cfg.get('custom_hooks') or []):
        if isinstance(hook, dict) and hook.get('type'):
            _check_hook(f'custom_hooks.{number}', hook)
    for key in cfg:
        near = '' if key in RUNNER_KEYS else near_hint(key, RUNNER_KEYS, 0.9)
        if near:
            print_log(f'MMEngine reads no {key} of the config{near}', level=logging.WARNING)


def _check_hook(path: str, hook: dict) -> None:
    """Raise InputError where no registry knows a hook's type, or the type not its options."""
    hook_class = registered(HOOKS, hook['type'], f'{path}.type', hook.get('_scope_'))
    parameters = inspect.signature(hook_class).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
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
        return kind
    with registry.switch_scope_and_registry(scope) as scoped_registry:
        try:
            registered_class = scoped_registry.get(kind)
        except RuntimeError:  # MMEngine's, of a name that is no object's either
            registered_class = None
        if registered_class is None:
            raise InputError(
                f'{path}={kind!r} is not registered{near_hint(kind, _names(scoped_registry))}; '
                'check its spelling, or import its module with custom_imports'
            )
        return registered_class


def _names(registry: Registry | None) -> list[str]:
    """What a registry and those above it know."""
    if registry is None:
        return []
    return [*registry.module_dict, *_names(registry.parent)]


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


def check_sync_bn(cfg: Config, training: bool = True) -> None:
    """Check that BatchNorm over all processes, by a `norm_cfg` or by `sync_bn`, can be had.

    In one process it is BatchNorm, into which MMEngine turns it; several need GPUs to train it.

    Raises:
        InputError: there are several processes and no GPU; `MMSyncBN` without processes; `sync_bn`
            is neither 'torch' nor 'mmcv'.
    """
    sync_bn = cfg.get('sync_bn')
    if sync_bn not in (None, 'torch', 'mmcv'):
        raise InputError(f"sync_bn={sync_bn!r} is unknown; give 'torch', 'mmcv' or None")
    several = cfg.get('launcher', 'none') != 'none'
    without_gpu = several and training and not _has_gpu()
    kinds = {path: kind_of(node) for path, node in walk(cfg.model, 'model')}
    for kind in ('SyncBN', 'SyncBatchNorm', 'MMSyncBN'):
        paths = [path for path, node_kind in kinds.items() if node_kind == kind]
        lacks_launcher = kind == 'MMSyncBN' and not several
        if paths and (without_gpu or lacks_launcher):
            need = (
                'a launcher (tools/dist_train.sh)'
                if lacks_launcher
                else 'GPUs, and torch sees none'
            )
            options = ' '.join(f'{path}.type=BN' for path in paths)
            raise InputError(
                f"{first_few(paths)} with type='{kind}' needs {need}; give type='BN': "
                f'--cfg-options {options}'
            )
    if sync_bn and without_gpu:
        raise InputError(
            f'sync_bn={sync_bn!r} needs GPUs, and torch sees none; give sync_bn=None, and each '
            'norm_cfg holds as it is written'
        )


def check_sharding(cfg: Config) -> None:
    """Check that a config's FSDP or DeepSpeed is for a runner and a machine that have it.

    Raises:
        InputError: a strategy needs GPUs and there is none, or the runner has no strategies; the
            model is to be sharded by its wrapper, where MMEngine's Runner would initialise and save
            fragments of the weights.
    """
    strategy = kind_of(cfg.get('strategy') or {})
    if strategy in GPU_STRATEGIES and not _has_gpu():
        raise InputError(
            f"strategy.type='{strategy}' needs GPUs and torch sees none; leave runner_type and "
            'strategy out, and several processes train by DistributedDataParallel'
        )
    if 'FullyShardedDataParallel' in kind_of(cfg.get('model_wrapper_cfg') or {}):
        raise InputError(
            "model_wrapper_cfg.type='MMFullyShardedDataParallel' shards the weights before "
            "MMEngine's Runner initialises and saves them; give runner_type='FlexibleRunner' and "
            "strategy.type='FSDPStrategy' in its stead, on GPUs"
        )
    if cfg.get('strategy') and kind_of(cfg, 'runner_type') in ('', 'CheckedRunner'):
        raise InputError(
            f"strategy={dict(cfg.strategy)} has no effect without runner_type='FlexibleRunner'; "
            'give both or neither'
        )


def check_work_dir(cfg: Config) -> None:
    """Check that the run can write where it is to: into its work_dir and its checkpoints' folder.

    Raises:
        InputError: a folder cannot be made or written in; nothing is left behind.
    """
    paths = {'the work_dir': cfg.work_dir}
    checkpoint_hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if checkpoint_hook.get('out_dir') and '://' not in str(checkpoint_hook['out_dir']):
        paths['default_hooks.checkpoint.out_dir'] = checkpoint_hook['out_dir']
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


def amp_on_cpu(optim_wrapper: dict) -> dict:
    """Mixed precision without a GPU: `CPUAmpOptimWrapper` in AmpOptimWrapper's place.

    Args:
        optim_wrapper: of a config; it is not changed.

    Returns:
        The optim_wrapper for this machine, equal to what was given where there is a GPU.

    Raises:
        InputError: the config asks for another type than bfloat16; float16 would need its losses
            scaled, for which torch has no scaler that MMEngine uses on the CPU.
    """
    optim_wrapper = copy.deepcopy(optim_wrapper)
    if _has_gpu():
        return optim_wrapper
    for path, node in walk(optim_wrapper, 'optim_wrapper'):
        if kind_of(node) != 'AmpOptimWrapper':
            continue
        dtype = str(node.pop('dtype', None) or 'bfloat16').removeprefix('torch.')
        if dtype != 'bfloat16':
            raise InputError(
                f'{path}.dtype={dtype!r} needs a GPU and torch sees none; mixed precision on the '
                f"CPU is bfloat16: give {path}.dtype='bfloat16', or leave --amp out"
            )
        node.pop('loss_scale', None)  # bfloat16 has float32's range: nothing to scale
        node.pop('use_fsdp', None)  # chooses among scalers alone
        node['type'] = 'CPUAmpOptimWrapper'
    return optim_wrapper


def adapt_to_cpu(cfg: Config) -> None:
    """Let several processes train on CPUs: gloo, and DDP without device ids.

    MMEngine's launcher code sets a CUDA device whatever the machine has; a process group that
    stands already is left alone, so it is made here.
    """
    if cfg.get('launcher', 'none') == 'none' or _has_gpu():
        return
    if cfg.launcher != 'pytorch':
        raise InputError(
            f'--launcher {cfg.launcher} needs GPUs and torch sees none; on CPUs use '
            'tools/dist_train.sh (--launcher pytorch)'
        )
    distributed.init_process_group('gloo')
    # What MMEngine's wrap_model sets where no wrapper is given, but for the device ids.
    cfg.model_wrapper_cfg = {
        'type': 'MMDistributedDataParallel',
        'broadcast_buffers': False,
        'find_unused_parameters': cfg.get('find_unused_parameters', False),
        **(cfg.get('model_wrapper_cfg') or {}),
        'device_ids': None,
    }


def _has_gpu() -> bool:
    return torch.cuda.is_available()
