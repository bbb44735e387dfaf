"""The size of a map from which the memory-efficient pass is the faster one."""

from __future__ import annotations

import math

import pytest

from benchmarks import threshold
from benchmarks.tables import threshold_table


def row(side: int, memory_efficient: float, autograd: float) -> dict:
    times = dict(memory_efficient=[memory_efficient] * 3, autograd=[autograd] * 3)
    return dict(shape=(1, 1, side, side), format='contiguous', **times)


def test_the_limit_is_the_size_from_which_the_pass_is_faster():
    rows = [row(10, 2.0, 1.0), row(20, 2.0, 1.5), row(30, 2.0, 3.0), row(40, 2.0, 9.0)]
    assert threshold.best_limit(rows) == 900
    assert threshold.losses(rows)[900] == pytest.approx(0)
    assert threshold.loss(rows, 500) == threshold.losses(rows)[900]  # no map is between them
    # At 100 the pass runs on all maps: twice as long on the first, 4/3 as long on the second.
    assert threshold.losses(rows)[100] == pytest.approx((2 * 4 / 3) ** (1 / 4) - 1)


def test_a_pass_that_is_never_faster_has_a_limit_above_all_sizes():
    assert threshold.best_limit([row(10, 2.0, 1.0), row(20, 2.0, 1.0)]) == 800


def test_measurement_has_both_passes_for_each_map_and_a_table():
    maps = list(threshold.measure(1, 'cpu', [2**13]))
    assert len(maps) == 2 * len(threshold.CHANNELS)
    for measured in maps:
        assert 0.5 < math.prod(measured['shape']) / 2**13 < 2
        assert min(measured['memory_efficient'] + measured['autograd']) > 0
    environment = dict(hardware='a CPU', torch='2')
    record = dict(maps=maps, limit=9, loss=0.1, small=8, command='c', environment=environment)
    words = 'The best limit is 9 elements: with it, training takes 10.0% longer'
    assert words in threshold_table(record)
