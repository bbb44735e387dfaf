"""The script that measures a GPU, tried on the CPU with small sizes."""

from __future__ import annotations

import json
from argparse import Namespace

import pytest

from benchmarks import gpu

MAPS = (1, 32, 8, 8)
SMALL = dict(
    device='cpu',
    dtypes=['float32'],
    shapes=[MAPS],
    numbers=[2**13],
    image=32,
    rounds=1,
    compile=False,
)


def last_record(**options: object) -> dict:
    *_, record = gpu.measure(Namespace(**{**SMALL, **options}))
    return record


def test_script_measures_every_part_and_names_a_default(monkeypatch):
    monkeypatch.setattr(gpu, 'run_tests', lambda deadline: dict(result='3 passed', passed=True))
    two = {name: gpu.BACKBONES[name] for name in ('no attention', 'memory-efficient')}
    monkeypatch.setattr(gpu, 'BACKBONES', two)
    record = last_record(minutes=9)
    assert [row['dtype'] for row in record['backbones']] == ['float32']
    rows = record['backbones'][0]['rows']
    # The norms keep what the attention needs, and the frozen stage has none.
    assert rows['memory-efficient']['train_peak'] < 1.2 * rows['no attention']['train_peak']
    assert [(row['format'], row['dtype']) for row in record['maps']] == [
        ('contiguous', 'float32'),
        ('channels_last', 'float32'),
    ]
    assert record['threshold'] > 0 and record['left_out'] == []
    environment = dict(hardware='a GPU', torch='2')
    table = gpu.gpu_table(dict(record, command='c', environment=environment))
    assert 'tests: 3 passed' in table and '| float32, memory-efficient |' in table
    assert '1x32x8x8, channels_last, float32' in table
    assert 'training: ' in table and ' should be the default' in table


def test_parts_for_which_there_is_no_time_are_named():
    deadline = gpu.Deadline(0)
    assert not deadline.allows('tests') and deadline.left_out == ['tests']
    assert list(gpu.measure(Namespace(**SMALL, minutes=0))) == []


def test_default_is_the_pass_with_the_smallest_mean_time_over_the_maps():
    def row(efficient: float, plain: float, compiled: float) -> dict:
        times = (efficient, plain, compiled)
        return dict(
            rows={
                module: dict(train_ms=[time] * 3, infer_ms=[1 / time] * 3)
                for module, time in zip(gpu.PASSES.values(), times, strict=True)
            }
        )

    record = dict(maps=[row(2, 4, 1), row(2, 8, 4)])
    means = gpu.ratios(record['maps'], 'train_ms')
    assert means == pytest.approx({'memory-efficient': 2**0.5, 'plain': 4, 'compiled': 2**0.5})
    record = dict(maps=[row(2, 4, 1)])
    training, inference = gpu.verdict(record)
    assert training.startswith('training: compiled should be the default (compiled 1.00x, memory')
    assert inference.startswith('inference: plain should be the default')


@pytest.mark.slow
def test_tests_of_the_gpu_are_skipped_without_one():
    result = gpu.run_tests(gpu.Deadline(5))
    assert 'skipped' in result['result'] and 'failed' not in result['result'] and result['passed']


@pytest.mark.slow
def test_script_writes_its_record(run, tmp_path):
    sizes = ('--shapes', '1x32x8x8', '--image', 32, '--rounds', 1, '--numbers', 2**13)
    options = ('--device', 'cpu', '--dtypes', 'float32', *sizes, '--no-compile')
    output = run('benchmarks.gpu', *options, '--out', 'gpu.json', cwd=tmp_path).stdout
    record = json.loads((tmp_path / 'gpu.json').read_text())
    assert gpu.gpu_table(record) in output
    assert [row['shape'] for row in record['maps']] == [[*MAPS]] * 2
