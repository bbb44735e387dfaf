"""Checks of a run before it begins: names, folders, device, processes.

Most take a merged config. They raise `InputError` with the remedy and change nothing else; what a
CPU needs in a config (`adapt_to_cpu`, `amp_on_cpu`) is the deliberate exception.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import distributed

from ..utils.config import RUNNER_KEYS, kind_of, nearest, walk
from ..utils.errors import InputError, some

GPU_STRATEGIES = ('FSDPStrategy', 'DeepSpeedStrategy', 'ColossalAIStrategy')


def is_first_process(cfg: Config) -> bool:
    """Whether this is the process that checks and downloads, before torch.distributed stands."""
    rank = {'pytorch': 'RANK', 'slurm': 'SLURM_PROCID', 'mpi': 'OMPI_COMM_WORLD_RANK'}
    return int(os.environ.get(rank.get(cfg.get('launcher', 'none'), ''), 0)) == 0


def check_names(cfg: Config, hooks: Iterable[str] = ()) -> None:
    """Name what would have no effect since it is misspelt: hooks, and keys of the config.

    A key that is near to one of MMEngine's is only told: it may be the config's own.

    Args:
        cfg: a merged config.
        hooks: names of default hooks beside those of the config.

    Raises:
        InputError: a default hook has no type, which a misspelt one lacks.
    """
    own = cfg.get('default_hooks') or {}
    for name, hook in own.items():
        if isinstance(hook, dict) and not hook.get('type'):
            near = nearest(name, {*own, *hooks} - {name})
            raise InputError(
                f'default_hooks.{name}={dict(hook)} has no type'
                f'{near or f"; give default_hooks.{name}.type too"}'
            )
    for key in cfg:
        near = '' if key in RUNNER_KEYS else nearest(key, RUNNER_KEYS, 0.9)
        if near:
            print_log(f'MMEngine reads no {key} of the config{near}', level=logging.WARNING)


def check_unused(work_dir: str) -> None:
    """Raise InputError where a run that begins would overwrite the checkpoints of another."""
    written = re.compile(r'(epoch_\d+|iter_\d+|stopped)\.pth')
    files = [path for path in Path(work_dir).glob('*.pth') if written.fullmatch(path.name)]
    files.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    # Whatever the checkpoints are called and wherever they are written, MMEngine names the last.
    found = [path.name for path in (Path(work_dir) / 'last_checkpoint', *files) if path.is_file()]
    if found:
        raise InputError(
            f'{work_dir} holds {some(found)} of a run before, which this one would overwrite; give '
            'another --work-dir, go on with that run by --resume, or move the files away'
        )


def check_sync_bn(cfg: Config, training: bool = True) -> None:
    """Check that BatchNorm over all processes, by a `norm_cfg` or by `sync_bn`, can be had.

    In one process it is BatchNorm, into which MMEngine turns it; several need GPUs to train it.

    Raises:
        InputError: there are several processes and no GPU; `MMSyncBN` without processes; `sync_bn`
            is neither 'torch' nor 'mmcv'.
    """
    everywhere = cfg.get('sync_bn')
    if everywhere not in (None, 'torch', 'mmcv'):
        raise InputError(f"sync_bn={everywhere!r} is unknown; give 'torch', 'mmcv' or None")
    several = cfg.get('launcher', 'none') != 'none'
    without_gpu = several and training and not _has_gpu()
    kinds = {path: kind_of(node) for path, node in walk(cfg.model, 'model')}
    for kind in ('SyncBN', 'SyncBatchNorm', 'MMSyncBN'):
        paths = [path for path, one in kinds.items() if one == kind]
        alone = kind == 'MMSyncBN' and not several
        if paths and (without_gpu or alone):
            need = 'a launcher (tools/dist_train.sh)' if alone else 'GPUs, and torch sees none'
            options = ' '.join(f'{path}.type=BN' for path in paths)
            raise InputError(
                f"{some(paths)} with type='{kind}' needs {need}; give type='BN': "
                f'--cfg-options {options}'
            )
    if everywhere and without_gpu:
        raise InputError(
            f'sync_bn={everywhere!r} needs GPUs, and torch sees none; give sync_bn=None, and each '
            'norm_cfg holds as it is written'
        )


def check_runner(cfg: Config) -> None:
    """Say what becomes of a config with MMEngine's FSDP, DeepSpeed, or a runner of its own.

    Raises:
        InputError: a strategy needs GPUs and there is none; the model is to be sharded by its
            wrapper, where MMEngine's Runner would initialise and save fragments of the weights.
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
    if cfg.get('strategy') and not cfg.get('runner_type'):
        raise InputError(
            f"strategy={dict(cfg.strategy)} has no effect without runner_type='FlexibleRunner'; "
            'give both or neither'
        )
    if cfg.get('runner_type') and is_first_process(cfg):
        print_log(
            f'runner_type={cfg.runner_type!r}: nothing is checked before this run, and it goes '
            'without exact resumption, whole checkpoints and the check of its losses',
            level=logging.WARNING,
        )


def check_work_dir(cfg: Config) -> None:
    """Check that the run can write where it is to: into its work_dir and its checkpoints' folder.

    Raises:
        InputError: a folder cannot be made or written in; nothing is left behind.
    """
    places = {'the work_dir': cfg.work_dir}
    out = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if out.get('out_dir') and '://' not in str(out['out_dir']):
        places['default_hooks.checkpoint.out_dir'] = out['out_dir']
    for what, place in places.items():
        folder = Path(place).absolute()
        while not folder.exists():
            folder = folder.parent
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InputError(
                f'{what} {place} cannot be written ({folder}: {error.strerror}); give a folder '
                'that can, by --work-dir for one'
            ) from None


def amp_on_cpu(cfg: Config) -> None:
    """Train in mixed precision without a GPU: `CPUAmpOptimWrapper` in AmpOptimWrapper's place.

    Raises:
        InputError: the config asks for another type than bfloat16; float16 would need its losses
            scaled, for which torch has no scaler that MMEngine uses on the CPU.
    """
    if _has_gpu():
        return
    for path, node in walk(cfg.get('optim_wrapper') or {}, 'optim_wrapper'):
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
        if is_first_process(cfg):
            print_log(
                'mixed precision on the CPU: bfloat16 autocast in training, without loss scaling; '
                'weights, gradients, losses, validation in float32'
            )


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
