"""From which size of a map the memory-efficient pass trains faster than autograd.

It is the limit `SMALL` in cbam_det/models/layers/memory_efficient.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from benchmarks.modules import training
from cbam_det.models.layers import CBAM
from cbam_det.utils.time_and_memory import alternate

IMAGES = 2
CHANNELS = (32, 128, 512)
NUMBERS = tuple(2**power for power in range(13, 22))  # 8,192 to 2,097,152
PASSES = {'memory_efficient': True, 'autograd': False}


def measure(rounds: int, device: str, numbers: Sequence[int] = NUMBERS) -> Iterator[dict]:
    """Time a training step of both passes in alternation, on maps of about each size.

    Yields:
        'shape' (N, C, H, W), 'format', and for each pass the median and quartiles in ms.
    """
    for count in numbers:
        for channels in CHANNELS:
            side = max(1, round(math.sqrt(count / IMAGES / channels)))
            shape = (IMAGES, channels, side, side)
            for layout in (torch.contiguous_format, torch.channels_last):
                x = torch.randn(shape, device=device).to(memory_format=layout).requires_grad_()
                g = torch.randn(shape, device=device).to(memory_format=layout)
                steps = {
                    name: training(CBAM(channels, memory_efficient=value).to(device), x, g)
                    for name, value in PASSES.items()
                }
                name = 'contiguous' if layout == torch.contiguous_format else 'channels_last'
                yield dict(shape=shape, format=name, **alternate(steps, rounds, device))


def losses(rows: Sequence[dict]) -> dict[int, float]:
    """The mean extra time that each limit costs against the faster pass of each map, by limit.

    The limits are the sizes of the maps, and one above them all.
    """
    sizes = sorted({math.prod(row['shape']) for row in rows})
    return {limit: loss(rows, limit) for limit in (*sizes, 2 * sizes[-1])}


def loss(rows: Sequence[dict], limit: int) -> float:
    """The mean extra time that a limit costs against the faster pass of each map, 0.1 for 10%."""
    ratios = []
    for row in rows:
        is_small = math.prod(row['shape']) < limit
        chosen = row['autograd' if is_small else 'memory_efficient'][0]
        ratios.append(math.log(chosen / min(row[name][0] for name in PASSES)))
    return math.exp(sum(ratios) / len(ratios)) - 1


def best_limit(rows: Sequence[dict]) -> int:
    """The limit with the smallest loss."""
    by_limit = losses(rows)
    return min(by_limit, key=lambda limit: by_limit[limit])
