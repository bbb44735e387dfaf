"""The cost of a study's runs on GPUs, computed from its configs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..models.costs import activation_bytes, count_costs
from ..utils.errors import InputError
from ..utils.records import table_head, table_row
from .estimate import training_steps
from .study import Row, Study, config_of


@dataclass(frozen=True)
class Plan:
    """The cost of one run of a row.

    Attributes:
        steps: optimizer steps.
        gpus: number of GPUs.
        images: training images, counted again in each epoch and repetition.
        multiply_adds: of the forward pass of one training image; see `costs.count_costs`.
        hours: training time, if forward and backward together cost three forward passes.
        kept: GiB of feature maps that one process keeps for the backward pass.
    """

    steps: int
    gpus: int
    images: int
    multiply_adds: int
    hours: float
    kept: float


def plan(study: Study, row: Row, teraflops: float) -> Plan:
    """The cost of one run of a detector on the study's GPUs, at `teraflops` on each.

    Raises:
        InputError: the study has no `images` or `gpus`.
    """
    if study.images is None or study.gpus is None:
        raise InputError(
            f'{study.name} cannot be planned: plan needs the keys `images:` (images per epoch) and '
            '`gpus:` in the study; add them'
        )
    cfg = config_of(study, row, row.seeds[0])
    loader = cfg.train_dataloader
    batch = loader.batch_size * study.gpus
    steps = training_steps(cfg, math.ceil(study.images * _repetitions(loader.dataset) / batch))
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


def _repetitions(dataset: dict) -> int:
    times = dataset.get('times', 1)
    return times * _repetitions(dataset['dataset']) if 'dataset' in dataset else times


def plan_table(record: dict) -> str:
    """The table of `tools/experiment.py plan`."""
    lines = []
    for study in record['studies'].values():
        numbers = ['runs', 'GPUs', 'steps', 'images', 'GFLOPs (multiply-adds)', 'hours']
        lines += table_head([study['title'], *numbers, 'feature maps, GiB'])
        for name, row in study['rows'].items():
            counts = (f'{row[key]:,}' for key in ('runs', 'gpus', 'steps', 'images'))
            multiply_adds = f'{row["multiply_adds"] / 1e9:.1f}'
            lines.append(
                table_row(
                    [name, *counts, multiply_adds, f'{row["hours"]:.1f}', f'{row["kept"]:.1f}']
                )
            )
        rows = study['rows'].values()
        hours = sum(row['runs'] * row['gpus'] * row['hours'] for row in rows) / record['gpus']
        lines += ['', f'about {hours:.0f} hours for all runs on {record["gpus"]} GPUs', '']
    origin = (
        f'Hours of one run at {record["teraflops"]:g} teraflops per GPU; feature maps on one GPU '
        'in float32; '
    )
    return '\n'.join([*lines, f'{origin}`{record["command"]}`'])
