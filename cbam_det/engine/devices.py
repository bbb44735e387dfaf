"""Check and adapt what depends on the devices: GPUs, mixed precision, process groups."""

from __future__ import annotations

import copy
from datetime import timedelta

import torch
from mmengine.config import Config
from torch import distributed

from ..utils.config import kind_of, walk
from ..utils.errors import InputError, first_few
from ..utils.installation import tool_file
from ..utils.run_config import RunConfig
from ..utils.value_types import typed

GPU_STRATEGIES = ('FSDPStrategy', 'DeepSpeedStrategy', 'ColossalAIStrategy')


def check_sync_bn(run: RunConfig, training: bool = True) -> None:
    """Check that the run can use the synchronized BatchNorm of a `norm_cfg` or of `sync_bn`.

    In a single process MMEngine replaces it with BatchNorm. To train it, several
    processes need GPUs.

    Raises:
        InputError: there are several processes and no GPU, `MMSyncBN` has no launcher, or `sync_bn`
            is not 'torch', 'mmcv' or None.
    """
    if run.sync_bn not in (None, 'torch', 'mmcv'):
        raise InputError(f"sync_bn={run.sync_bn!r} is unknown; give 'torch', 'mmcv' or None")
    without_gpu = run.has_launcher and training and not torch.cuda.is_available()
    for kind in ('SyncBN', 'SyncBatchNorm', 'MMSyncBN'):
        paths = [path for path, name in run.model.types.items() if name == kind]
        lacks_launcher = kind == 'MMSyncBN' and not run.has_launcher
        if paths and (without_gpu or lacks_launcher):
            need = (
                f'a launcher ({tool_file("dist_train.sh")})'
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
            f'sync_bn={run.sync_bn!r} needs GPUs, and torch sees none; give sync_bn=None, which '
            'leaves each norm_cfg as it is'
        )


def check_sharding(cfg: Config) -> None:
    """Check that the runner and this machine support the FSDP or DeepSpeed of a config.

    Raises:
        InputError: a strategy needs GPUs and there is none; the runner has no strategies; or a
            model wrapper shards the weights, of which MMEngine's Runner would then initialise and
            save only fragments.
    """
    strategy = kind_of(typed(cfg, 'strategy', dict | None, '') or {})
    if strategy in GPU_STRATEGIES and not torch.cuda.is_available():
        raise InputError(
            f"strategy.type='{strategy}' needs GPUs and torch sees none; remove runner_type "
            'and strategy, then several processes train with DistributedDataParallel'
        )
    if 'FullyShardedDataParallel' in kind_of(
        typed(cfg, 'model_wrapper_cfg', dict | None, '') or {}
    ):
        raise InputError(
            "model_wrapper_cfg.type='MMFullyShardedDataParallel' shards the weights before "
            "MMEngine's Runner initialises and saves them; on GPUs give --cfg-options "
            'model_wrapper_cfg=None runner_type=FlexibleRunner strategy.type=FSDPStrategy'
        )
    if cfg.get('strategy') and kind_of(cfg, 'runner_type') in ('', 'CheckedRunner'):
        raise InputError(
            f"strategy={dict(cfg.strategy)} has no effect without runner_type='FlexibleRunner'; "
            'give both or neither'
        )


def adapt_amp(optim_wrapper: dict) -> dict:
    """Replace `AmpOptimWrapper` by `CPUAmpOptimWrapper` if there is no GPU, and by
    `BFloat16OptimWrapper` if there is one and the type is bfloat16.

    Args:
        optim_wrapper: the one of a config; it is not changed.

    Returns:
        A copy with the wrapper for this machine.

    Raises:
        InputError: the config asks for another type than bfloat16. float16 needs loss scaling,
            which MMEngine does not have on the CPU.
    """
    optim_wrapper = copy.deepcopy(optim_wrapper)
    for path, node in walk(optim_wrapper, 'optim_wrapper'):
        if kind_of(node) != 'AmpOptimWrapper':
            continue
        if torch.cuda.is_available():
            if str(node.get('dtype')).removeprefix('torch.') == 'bfloat16':
                node['type'] = 'BFloat16OptimWrapper'
            continue
        dtype = str(node.pop('dtype', None) or 'bfloat16').removeprefix('torch.')
        if dtype != 'bfloat16':
            raise InputError(
                f'{path}.dtype={dtype!r} needs a GPU and torch sees none; mixed precision on the '
                f"CPU is bfloat16: give {path}.dtype='bfloat16', or leave --amp out"
            )
        node.pop('loss_scale', None)  # bfloat16 has the range of float32: nothing to scale
        node.pop('use_fsdp', None)  # chooses only the scaler
        node['type'] = 'CPUAmpOptimWrapper'
    return optim_wrapper


def set_timeout(cfg: Config) -> None:
    """Let several processes wait an hour for each other, unless the config has a timeout.

    They wait while the first one checks the data; NCCL's own 10 minutes can be too short for it.

    Raises:
        InputError: the timeout is not a number of seconds.
    """
    if cfg.get('launcher', 'none') == 'none':
        return
    env = typed(cfg, 'env_cfg', dict | None, '') or {}
    dist = typed(env, 'dist_cfg', dict | None, 'env_cfg') or {}
    if typed(dist, 'timeout', int | float | None, 'env_cfg.dist_cfg') is None:
        cfg.merge_from_dict(dict(env_cfg=dict(dist_cfg=dict(timeout=3600))))


def adapt_to_cpu(cfg: Config) -> None:
    """Make training in several processes work on CPUs: with gloo, and DDP without device ids.

    MMEngine's launcher code always sets a CUDA device, unless the process group exists already. So
    the group is created here, with the timeout of `set_timeout`.
    """
    if cfg.get('launcher', 'none') == 'none' or torch.cuda.is_available():
        return
    if cfg.launcher != 'pytorch':
        raise InputError(
            f'--launcher {cfg.launcher} needs GPUs and torch sees none; on CPUs use '
            f'{tool_file("dist_train.sh")} (--launcher pytorch)'
        )
    if not distributed.is_initialized():  # by an earlier runner of the same script
        seconds = cfg.env_cfg.dist_cfg.timeout
        distributed.init_process_group('gloo', timeout=timedelta(seconds=seconds))
    # The defaults of MMEngine's wrap_model, except for the device ids.
    cfg.model_wrapper_cfg = {
        'type': 'MMDistributedDataParallel',
        'broadcast_buffers': False,
        'find_unused_parameters': cfg.get('find_unused_parameters', False),
        **(cfg.get('model_wrapper_cfg') or {}),
        'device_ids': None,
    }
