"""Time and memory of calls. This file needs only torch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

MIB = 2**20


def alternate(
    calls: Mapping[str, Callable[..., object]], rounds: int, device: str
) -> dict[str, list[float]]:
    """Time calls in turns; returns median and quartiles over `rounds` in ms, by name."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_number in range(-2, rounds):  # two rounds of warm-up
        for name, call in calls.items():
            _wait(device)
            start = time.perf_counter()
            call()
            _wait(device)
            if round_number >= 0:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {
        name: [round(float(value), 3) for value in np.percentile(values, [50, 25, 75])]
        for name, values in times.items()
    }


def _wait(device: str) -> None:
    if device == 'cuda':
        torch.cuda.synchronize()


def memory(step: Callable[..., object], device: str) -> tuple[float, float]:
    """Memory that a forward pass keeps, including its output, and the peak of a whole step, in MiB.

    Only allocations by torch are counted, not those that other libraries make themselves.
    """
    if device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        output = step(forward_alone=True)
        allocated = torch.cuda.memory_allocated() - before
        del output
        torch.cuda.reset_peak_memory_stats()
        step()
        return allocated / MIB, (torch.cuda.max_memory_allocated() - before) / MIB
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # else it prints its start, and a missing GPU
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profiler:
        output = step(forward_alone=True)
    allocated = sum(_allocations(profiler))
    del output
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profiler:
        step()
    return allocated / MIB, max(np.cumsum(_allocations(profiler)), default=0) / MIB


def _allocations(profiler: profile) -> list[int]:
    torch_profiler: Any = profiler.profiler  # an attribute that torch's types lack
    events = [
        event for event in torch_profiler.kineto_results.events() if event.name() == '[memory]'
    ]
    return [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
