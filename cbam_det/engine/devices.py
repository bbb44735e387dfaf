"""What a run needs of this machine's devices: GPUs, mixed precision, process groups."""

from __future__ import annotations

import copy

import torch
from mmengine.config import Config
from torch import distributed

from ..utils.config import kind_of, walk
from ..utils.errors import InputError, first_few
from ..utils.run_config import RunConfig
from ..utils.value_types import typed

GPU_STRATEGIES = ('FSDPStrategy', 'DeepSpeedStrategy', 'ColossalAIStrategy')


def check_sync_bn(run: RunConfig, training: bool = True) -> None:
    """Check that BatchNorm over all processes, by a `norm_cfg` or by `sync_bn`, can be had.

    In one process it is BatchNorm, into which MMEngine turns it; several need GPUs to train it.

    Raises:
        InputError: there are several processes and no GPU; `MMSyncBN` without processes; `sync_bn`
            is neither 'torch' nor 'mmcv'.
    """
    if run.sync_bn not in (None, 'torch', 'mmcv'):
        raise InputError(f"sync_bn={run.sync_bn!r} is unknown; give 'torch', 'mmcv' or None")
    without_gpu = run.has_launcher and training and not torch.cuda.is_available()
    for kind in ('SyncBN', 'SyncBatchNorm', 'MMSyncBN'):
        paths = [path for path, name in run.model.types.items() if name == kind]
        lacks_launcher = kind == 'MMSyncBN' and not run.has_launcher
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
    if run.sync_bn and without_gpu:
        raise InputError(
            f'sync_bn={run.sync_bn!r} needs GPUs, and torch sees none; give sync_bn=None, and each '
            'norm_cfg holds as it is written'
        )


def check_sharding(cfg: Config) -> None:
    """Check that a config's FSDP or DeepSpeed is for a runner and a machine that have it.

    Raises:
        InputError: a strategy needs GPUs and there is none, or the runner has no strategies; the
            model is to be sharded by its wrapper, where MMEngine's Runner would initialise and save
            fragments of the weights.
    """
    strategy = kind_of(typed(cfg, 'strategy', dict | None, '') or {})
    if strategy in GPU_STRATEGIES and not torch.cuda.is_available():
        raise InputError(
            f"strategy.type='{strategy}' needs GPUs and torch sees none; leave runner_type and "
            'strategy out, and several processes train by DistributedDataParallel'
        )
    if 'FullyShardedDataParallel' in kind_of(
        typed(cfg, 'model_wrapper_cfg', dict | None, '') or {}
    ):
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
    if torch.cuda.is_available():
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
    if cfg.get('launcher', 'none') == 'none' or torch.cuda.is_available():
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
