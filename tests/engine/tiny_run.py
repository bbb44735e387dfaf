"""A training of seconds whose samples and loss draw from every generator, and its checkpoints."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils.data import Dataset

from cbam_det.engine.runner import CheckedRunner

IMAGES, BATCH = 12, 4  # three iterations an epoch


class Noisy(Dataset):
    """Samples of an index and of a draw of each generator."""

    metainfo = dict(classes=('one',))

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> dict:
        draws = [index, random.random(), np.random.rand(), torch.rand(()).item()]
        sample = BaseDataElement(metainfo=dict(img_path=f'{index}.jpg'))
        return dict(inputs=torch.tensor(draws), data_samples=sample)


class Noise(BaseModel):
    """A linear layer whose loss has noise; it notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.register_buffer('ballast', torch.zeros(200_000))  # 0.8 MB in each checkpoint
        self.seen: list[list[float]] = []

    def forward(self, inputs: list, data_samples: list, mode: str = 'tensor') -> object:
        x = torch.stack(list(inputs))
        if mode != 'loss':
            return [dict(score=torch.rand(()).item())] * len(x)
        self.seen += x.tolist()
        return dict(loss=(self.layer(x) + torch.rand(len(x), 1)).square().mean() / 100)


class Draw(BaseMetric):
    """A validation that draws from every generator, and scores by the epoch."""

    default_prefix = 'toy'
    score = 0

    def process(self, data_batch: object, data_samples: object) -> None:
        self.results.append(random.random() + np.random.rand())

    def compute_metrics(self, results: list) -> dict:
        Draw.score += 1
        return dict(score=Draw.score)


class At(Hook):
    """Does something after an iteration, counted from 1."""

    def __init__(self, iteration: int, action: Callable) -> None:
        self.iteration, self.action = iteration, action

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if runner.iter + 1 == self.iteration:
            self.action(runner)


RUNNERS: list[CheckedRunner] = []


def toy(
    work: Path,
    *hooks: Hook,
    workers: int = 0,
    by_epoch: bool = True,
    seed: int | None = 0,
    **options,
) -> CheckedRunner:
    """A run of three epochs of three iterations, with a moving average; `default` are hooks.

    `model`, `max_epochs`, `optimizer`, `param_scheduler` and `randomness` replace what it has.
    """
    loader = dict(dataset=Noisy(), batch_size=BATCH, num_workers=workers)
    if workers:
        loader['persistent_workers'] = True
    sampler = 'DefaultSampler' if by_epoch else 'InfiniteSampler'
    checkpoint = dict(type='CheckpointHook', interval=1 if by_epoch else 3, by_epoch=by_epoch)
    checkpoint.update(options.pop('checkpoint', {}))
    torch.manual_seed(0)
    steps = (
        dict(max_epochs=options.pop('max_epochs', 3))
        if by_epoch
        else dict(max_iters=9, val_interval=3)
    )
    runner = CheckedRunner(
        model=options.pop('model', None) or Noise(),
        work_dir=str(work),
        train_dataloader=dict(loader, sampler=dict(type=sampler, shuffle=True)),
        val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=by_epoch, **steps),
        val_cfg=dict(),
        val_evaluator=[Draw()],
        optim_wrapper=dict(
            optimizer={'type': 'SGD', 'lr': 0.1, 'momentum': 0.9, **options.pop('optimizer', {})}
        ),
        param_scheduler=options.pop('param_scheduler', None)
        or dict(type='ExponentialLR', gamma=0.9, by_epoch=False),
        default_hooks=dict(
            dict(checkpoint=checkpoint, run_report=None), **options.pop('default', {})
        ),
        custom_hooks=[dict(type='EMAHook'), *hooks],
        randomness=options.pop('randomness', dict(seed=seed)),
        experiment_name=f'{work.name}_{time.monotonic_ns()}',
        default_scope='mmengine',
        log_level=options.pop('log_level', 'WARNING'),
        **options,
    )
    RUNNERS.append(runner)
    return runner


def load(path: Path) -> dict:
    """The content of a checkpoint."""
    return CheckpointLoader.load_checkpoint(str(path), 'cpu', logger='silent')


def state(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint and of its moving average."""
    loaded = load(path)
    return {**loaded['state_dict'], **loaded['ema_state_dict']}


def same(first_path: Path, second_path: Path) -> bool:
    """Whether two checkpoints have the same weights to the bit."""
    first, second = state(first_path), state(second_path)
    assert first.keys() == second.keys() and len(first) >= 6
    return all(torch.equal(first[key], second[key]) for key in first)


def kill(runner: CheckedRunner) -> None:
    """Send SIGTERM to this process."""
    os.kill(os.getpid(), signal.SIGTERM)
