"""How long a training with its validations and its test will take, by a few steps of each."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import islice
from math import ceil

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ..apis.inference import Predictor
from ..utils.config import enter_scope

STEPS = 6


def run_seconds(cfg: Config, processes: int = 1) -> float:
    """Seconds of the training, the validations and the test of `cfg`, data loading included;
    metrics and checkpoints are not.

    Args:
        cfg: of a detector whose data can be read.
        processes: GPUs that share an epoch.

    Raises:
        InputError: the config cannot be built, or its pretrained weights are missing.
    """
    enter_scope(cfg)
    model = Predictor(cfg).model
    # Evaluation first: a training step changes the weights.
    seconds = validations(cfg) * _pass_seconds(cfg, 'val', model.eval().val_step)
    seconds += _pass_seconds(cfg, 'test', model.test_step)
    wrapper = build_optim_wrapper(model.train(), cfg.optim_wrapper)
    loader = _loader(cfg, 'train')
    step = _seconds(loader, lambda batch: model.train_step(batch, wrapper))
    return seconds / processes + step * training_steps(cfg, ceil(len(loader) / processes))


def training_steps(cfg: Config, steps_per_epoch: int) -> int:
    """The number of training steps of a run."""
    return cfg.train_cfg.get('max_iters') or cfg.train_cfg.max_epochs * steps_per_epoch


def validations(cfg: Config) -> int:
    """How often a training is validated; MMEngine's loops do it after the last epoch too."""
    if not cfg.get('val_cfg'):
        return 0
    length = cfg.train_cfg.get('max_iters') or cfg.train_cfg.max_epochs
    return ceil(length / cfg.train_cfg.get('val_interval', 1))


def _loader(cfg: Config, split: str) -> DataLoader:
    return Runner.build_dataloader(cfg[f'{split}_dataloader'], seed=0)


def _pass_seconds(cfg: Config, split: str, step: Callable[[dict], object]) -> float:
    """Seconds of a pass through a split without training; 0 where the config has no such split."""
    if not cfg.get(f'{split}_dataloader'):
        return 0
    loader = _loader(cfg, split)
    with torch.no_grad():
        return len(loader) * _seconds(loader, step)


def _seconds(loader: DataLoader, step: Callable[[dict], object]) -> float:
    """Seconds of a step with its data: the median of a few, without the first two, which wait for
    workers to start and for memory.
    """
    times = []
    start = time.perf_counter()
    for batch in islice(loader, STEPS):
        step(batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
        start = time.perf_counter()
    return statistics.median(times[2:] or times)
