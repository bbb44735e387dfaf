"""The shared part of `tools/train.py` and `tools/test.py`: from parsed arguments to a run."""

from __future__ import annotations

import argparse
import gc
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import distributed

from ..checkpoints.files import read_weights_only
from ..datasets.validation.data_root import set_data_root
from ..models.compat import allow_compilations
from ..utils.config import enter_scope, find_config, read_config
from ..utils.environment import check_operators, keep_memory, without_cuda
from ..utils.errors import InputError, print_stderr
from ..utils.installation import tool_file
from ..utils.options import parse_options
from . import devices, preflight
from .config_names import registered
from .preflight import Task
from .runner import CheckedRunner

# Where the launchers tell a process its number on this machine, which is that of its GPU. MMEngine
# reads it only after the first use of a GPU.
LOCAL_RANKS = {'slurm': 'SLURM_LOCALID', 'mpi': 'OMPI_COMM_WORLD_LOCAL_RANK'}


def config_of(args: argparse.Namespace, task: Task) -> Config:
    """The config of a command line, with the options that training and testing share.

    Args:
        args: has config, cfg_options, launcher, local_rank, work_dir, data_root, check_images,
            channels_last.
        task: the task of the command.

    Raises:
        InputError: an option is wrong, or the config cannot be read or has no data for the task.
    """
    options = parse_options(args.cfg_options)
    if args.launcher == 'pytorch' and 'RANK' not in os.environ:
        raise InputError(f'--launcher pytorch needs torchrun; use {tool_file(f"dist_{task}.sh")}')
    path = find_config(args.config)
    cfg = read_config(path, options)
    preflight.check_task(cfg, task)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or f'work_dirs/{Path(path).stem}'
    if args.data_root is not None:
        set_data_root(cfg, args.data_root)
    if args.channels_last is not None:
        cfg.channels_last = args.channels_last
    settings = cfg.get('preflight') or {}
    if args.check_images and isinstance(settings, dict):  # a later check refuses other types
        cfg.preflight = {**settings, 'check_images': True}
    return cfg


def build_runner(cfg: Config, task: Task) -> Runner:
    """Build the runner that a config names, by default a `CheckedRunner`, which checks `cfg`.

    Raises:
        InputError: no runner of that name is registered; see `CheckedRunner.from_cfg`.
    """
    enter_scope(cfg)
    runner_class = registered(RUNNERS, cfg.get('runner_type') or CheckedRunner, 'runner_type')
    if issubclass(runner_class, CheckedRunner):
        return runner_class.from_cfg(cfg, task)
    devices.check_sharding(cfg)
    if preflight.is_first_process(cfg):
        print_log(
            f'runner_type={cfg.runner_type!r}: nothing is checked before this run, and it has '
            'no exact resuming, no atomic checkpoints and no check of its losses',
            level=logging.WARNING,
        )
    if cfg.get('resume') == 'auto':
        cfg.resume = (Path(cfg.work_dir) / 'last_checkpoint').is_file()
        cfg.load_from = None if cfg.resume else cfg.get('load_from')
    return RUNNERS.build(cfg)


def run_tool(
    run: Callable[[argparse.Namespace], None], args: argparse.Namespace, hidden_gpus: int = 0
) -> None:
    """Prepare this process for a run, call `run`, and destroy the process group afterwards.

    Args:
        run: a training or a test; its runner must not outlive it.
        args: the parsed command line.
        hidden_gpus: the number of GPUs that were hidden because mmcv's operators cannot use them.

    Raises:
        InputError: mmcv's operators do not work on this machine; also what `run` raises.
    """
    local_rank = os.environ.get(LOCAL_RANKS.get(args.launcher, ''), args.local_rank)
    os.environ.setdefault('LOCAL_RANK', str(local_rank))
    read_weights_only()
    if problem := check_operators():
        raise InputError(str(problem).replace('\n    ', '; '))
    if hidden_gpus:
        gpus = '1 GPU is' if hidden_gpus == 1 else f'{hidden_gpus} GPUs are'
        print_stderr(f'running on the CPU: {without_cuda(gpus)}')
    if not torch.cuda.is_available():
        keep_memory()
    setup_cache_size_limit_of_dynamo()
    allow_compilations()
    run(args)
    if distributed.is_available() and distributed.is_initialized():
        # Its threads can abort a process that ends. The model, which is in reference cycles of the
        # runner, still refers to the group.
        distributed.destroy_process_group()
        gc.collect()
