"""What the runs of a study cost on GPUs, from its configs alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mmengine.config import Config

from ..models.costs import activation_bytes, count_costs
from ..utils.config import is_detector
from ..utils.errors import InputError
from .study import Row, Study, config_of


@dataclass(frozen=True)
class Plan:
    """A run of a row.

    Attributes:
        steps: of the optimiser.
        gpus: of the run.
        images: that are trained on, repetitions counted.
        multiply_adds: of one image forward in training, as `costs.count_costs` has them.
        hours: of training, three times the forward pass for forward and backward.
        kept: GiB of feature maps that one process keeps for the backward pass.
    """

    steps: int
    gpus: int
    images: int
    multiply_adds: int
    hours: float
    kept: float


def plan(study: Study, row: Row, teraflops: float) -> Plan:
    """The cost of one run of `row` on the study's GPUs, each sustaining `teraflops`.

    Raises:
        InputError: the study names no number of images or GPUs, or is of classifiers.
    """
    cfg = config_of(study, row, row.seeds[0])
    if study.images is None or study.gpus is None or not is_detector(cfg):
        raise InputError(
            f'{study.name} cannot be planned: it needs `images:`, those of an epoch, `gpus:`, '
            f'and detectors, which {row.name!r} may not be'
        )
    loader = cfg.train_dataloader
    batch = loader.batch_size * study.gpus
    steps = _steps(cfg, math.ceil(study.images * _repetitions(loader.dataset) / batch))
    cost = count_costs(cfg, training=True)
    work = 3 * 2 * cost.multiply_adds * steps * batch
    return Plan(
        steps=steps,
        gpus=study.gpus,
        images=steps * batch,
        multiply_adds=cost.multiply_adds,
        hours=work / (study.gpus * teraflops * 1e12) / 3600,
        kept=loader.batch_size * activation_bytes(cfg) / 2**30,
    )


def _steps(cfg: Config, steps_per_epoch: int) -> int:
    if cfg.train_cfg.get('max_iters'):
        return cfg.train_cfg.max_iters
    return cfg.train_cfg.max_epochs * steps_per_epoch


def _repetitions(dataset: dict) -> int:
    times = dataset.get('times', 1)
    return times * _repetitions(dataset['dataset']) if 'dataset' in dataset else times
