"""How long a training with its validations and its test will take, by some steps of each.

The announced time has to be that of the clock. For BCCD on two idle CPU cores, the median of four
steps gave 24 minutes, but the six runs took 31. By their logs, half of the difference was that the
steps of later epochs take longer, a quarter that a step has its mean time and not its median, and a
quarter the start of the tools and of each validation.
"""

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
from ..engine.devices import adapt_amp
from ..engine.runner import check_batches
from ..models.channels_last import to_channels_last
from ..utils.config import enter_scope

STEPS, MOST_STEPS = 6, 40
SECONDS = 8.0  # after which the timing of steps ends, if there were STEPS
LATER_EPOCHS = 1.15  # time of a step, divided by that of a step in the first epoch


def run_seconds(cfg: Config, processes: int = 1) -> float:
    """Seconds of the training, the validations and the test of `cfg`, with the loading of data and
    the building of the model in both tools. Metrics and checkpoints are not included, but the first
    step of each validation has the time that its workers take to start.

    Args:
        cfg: of a detector whose data can be read.
        processes: GPUs that share an epoch.

    Raises:
        InputError: the config cannot be built, its pretrained weights are missing, its mixed
            precision needs a GPU that is not there, or `drop_last` leaves no batch.
    """
    begin = time.perf_counter()
    enter_scope(cfg)
    model = Predictor(cfg).model
    if cfg.get('channels_last'):
        to_channels_last(model)
    building = 2 * (time.perf_counter() - begin)
    # Evaluation first: a training step changes the weights.
    seconds = validations(cfg) * _pass_seconds(cfg, 'val', model.eval().val_step)
    seconds += _pass_seconds(cfg, 'test', model.test_step)
    wrapper = build_optim_wrapper(model.train(), adapt_amp(cfg.optim_wrapper))
    loader = _loader(cfg, 'train')
    check_batches(loader)
    first, step = _seconds(loader, lambda batch: model.train_step(batch, wrapper))
    steps = training_steps(cfg, ceil(len(loader) / processes))
    return building + seconds / processes + first + LATER_EPOCHS * step * steps


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
        first, later = _seconds(loader, step)
    return first + (len(loader) - 1) * later


def _seconds(loader: DataLoader, step: Callable[[dict], object]) -> tuple[float, float]:
    """Seconds of the first step with its data, which waits for workers and for memory; and of a
    later one: the mean of the second half, as the first ones use data that were loaded before.
    """
    times: list[float] = []
    begin = start = time.perf_counter()
    for batch in islice(loader, MOST_STEPS):
        step(batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        times.append(now - start)
        start = now
        if len(times) >= STEPS and now - begin > SECONDS:
            break
    return times[0], statistics.fmean(times[len(times) // 2 :])
