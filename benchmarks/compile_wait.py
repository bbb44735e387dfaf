"""How long `compile=True` makes the first training step wait, without and with torch's cache."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from statistics import median

import torch

from cbam_det.models.build import build_model
from cbam_det.utils.config import read_config
from cbam_det.utils.environment import keep_memory

LATER_STEPS = 10


def measure(size: tuple[int, int], device: str) -> dict[str, dict[str, float]]:
    """Time forward and backward passes of the backbone of `faster_rcnn_r50_cbam`, two images.

    Args:
        size: height and width of the images in pixels.

    Returns:
        By name, 'first' and 'later': seconds of the first step, and the median of the later ones.
    """
    context = multiprocessing.get_context('spawn')  # a compiled function stays in its process
    with tempfile.TemporaryDirectory() as cache:
        os.environ['TORCHINDUCTOR_CACHE_DIR'] = cache
        names = ('eager', 'compiled, empty cache', 'compiled, full cache')
        with context.Pool(1, maxtasksperchild=1) as pool:
            return {name: pool.apply(steps, (name != 'eager', size, device)) for name in names}


def steps(compiled: bool, size: tuple[int, int], device: str) -> dict[str, float]:
    """'first' and 'later' of `measure`, in this process."""
    if device == 'cpu':
        keep_memory()
    cfg = read_config('faster_rcnn_r50_cbam', announce=False)
    cfg.model.backbone.plugins[0].cfg.compile = compiled
    torch.manual_seed(0)
    backbone = build_model(cfg).backbone.to(device)
    backbone.train()
    images = torch.rand(2, 3, *size, device=device)
    times = []
    for _ in range(1 + LATER_STEPS):
        start = time.perf_counter()
        sum(output.mean() for output in backbone(images)).backward()
        if device == 'cuda':
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return dict(first=round(times[0], 2), later=round(median(times[1:]), 3))
