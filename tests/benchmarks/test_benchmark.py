"""Benchmarks: measurements, the other implementations, and the command."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from benchmarks import contenders, modules
from benchmarks.tables import TABLES
from cbam_det import CBAM
from cbam_det.utils import measure

from ..conftest import ROOT
from ..models.gradients import assert_same, output_and_gradients


def test_other_implementations_compute_the_same_with_the_same_weights():
    """So that their times can be compared."""
    ours = CBAM(32, start='paper')
    peers = modules.contenders(32, compiled=False)
    assert list(peers) == [
        'cbam_det',
        'cbam_det, memory_efficient=False',
        "authors' form",
        'timm',
        'pytorchcv',
    ]
    like_timm = CBAM(32, start='paper', mlp_bias=False, spatial_pools=('avg', 'max'))
    x, g = torch.randn(2, 2, 32, 9, 8)
    for name, peer in peers.items():
        reference = like_timm if name == 'timm' else ours
        for parameter in reference.parameters():
            nn.init.normal_(parameter, 0, 0.3)
        states = [
            [tensor for tensor in module.state_dict().values() if tensor.is_floating_point()]
            for module in (peer, reference)
        ]
        for target, source in zip(*states, strict=True):
            target.copy_(source.view_as(target))
        expected = output_and_gradients(reference, x, g)[:2]
        assert_same(output_and_gradients(peer, x, g)[:2], expected, 1e-5)


def test_calls_alternate_after_a_warm_up():
    order = []
    calls = {name: (lambda name=name: order.append(name)) for name in 'ab'}
    times = measure.alternate(calls, 3, 'cpu')
    assert order == [*'ab'] * 5
    assert all(low <= median <= high for median, low, high in times.values())


def test_memory_counts_kept_memory_and_the_peak():
    def step(forward_alone: bool = False) -> torch.Tensor:
        torch.empty(5 * measure.MIB // 4)  # freed at once
        return torch.empty(3 * measure.MIB // 4)

    kept, peak = measure.memory(step, 'cpu')
    assert (kept, peak) == (3, 5)


def test_memory_efficient_gates_round_no_more_than_autograd():
    errors = contenders.rounding((1, 32, 16, 16), 'cpu')
    assert errors['float32']['output'] < 1e-6
    assert errors['bfloat16']['output'] < 4e-3
    for kind, parts in (
        ('float32', ('output', 'input', 'parameters')),
        (
            'bfloat16',
            ('output', 'parameters'),
        ),  # the input's gradient depends on ties of the maximum
    ):
        for part in parts:
            assert errors[kind][part] < max(
                1e-6, 2 * errors[f'{kind}, memory_efficient=False'][part]
            )


def test_counts_equal_the_paper_s_tables_4_and_5_except_for_three_last_digits():
    rows = contenders.counts()
    assert len(rows) == 10
    different = {
        (name, kind): counted['ours']
        for name, kinds in rows.items()
        for kind, counted in kinds.items()
        if counted['ours'] != counted['paper']
    }
    assert different == {
        ('MobileNet, 0.7', 'SE'): [2.70, 0.283],  # 2.71
        ('MobileNet, 0.7', 'CBAM'): [2.71, 0.288],  # 0.289
        ('MobileNet, 1.0', 'CBAM'): [5.07, 0.575],  # 0.576
    }


@pytest.mark.slow
def test_command_records_the_module_and_draws_the_plot(run, tmp_path):
    shape = ('--shapes', '1x32x20x20', '--rounds', 2)
    output = run('benchmarks.speed', 'module', *shape, '--out', 'deep/m.json', cwd=tmp_path).stdout
    record = json.loads((tmp_path / 'deep/m.json').read_text())
    assert [feature_map['shape'] for feature_map in record['maps']] == [[1, 32, 20, 20]] * 2
    assert TABLES['benchmark_module'](record) in output
    assert record['environment']['torch'] == torch.__version__.partition('+')[0]
    run('benchmarks.speed', 'plot', 'deep/m.json', 'm.svg', cwd=tmp_path)
    assert 'forward and backward' in (tmp_path / 'm.svg').read_text()


@pytest.mark.slow
def test_command_compares_detectors_with_the_first_one(run, tmp_path):
    name = 'faster_rcnn_r50_cbam_digits'
    options = ('--size', '64x64', '--rounds', 1, '--batch', 1, '--amp', '--out', 'd.json')
    options += ('--as-in-mmdet', '--channels-last')
    output = run('benchmarks.speed', 'detector', name, *options, cwd=tmp_path).stdout
    record = json.loads((tmp_path / 'd.json').read_text())
    suffixes = [", mmdet's tools", '', ', --channels-last', ', --amp', ', --channels-last, --amp']
    assert record['size'] == [64, 64]
    assert list(record['rows']) == [name + suffix for suffix in suffixes]
    assert all(row['train_peak'] > 1 for row in record['rows'].values())
    assert output.count('%') == 8  # two differences from the first in each other row


def test_command_times_a_classifier_as_well(run, tmp_path):
    names = ('tiny_imagenet/resnet18_half', 'tiny_imagenet/resnet18_half_cbam')
    options = ('--size', '32x32', '--rounds', 1, '--batch', 2, '--out', 'c.json')
    run('benchmarks.speed', 'detector', *names, *options, cwd=tmp_path)
    record = json.loads((tmp_path / 'c.json').read_text())
    assert list(record['rows']) == ['resnet18_half', 'resnet18_half_cbam']
    assert record['size'] == [32, 32] and record['batch'] == 2
    assert all(row['train_ms'][0] > row['infer_ms'][0] > 0 for row in record['rows'].values())


@pytest.mark.slow
def test_command_times_the_wait_for_the_compiler(run, tmp_path):
    output = run('benchmarks.speed', 'compile', '--size', '64x64', '--out', 'w.json', cwd=tmp_path)
    rows = json.loads((tmp_path / 'w.json').read_text())['rows']
    assert list(rows) == ['eager', 'compiled, empty cache', 'compiled, full cache']
    assert all(times['later'] > 0 and times['first'] > 0 for times in rows.values())
    assert 'first step, s' in output.stdout


def test_command_compares_evaluators_and_their_numbers(run, tmp_path):
    options = ('evaluation', '--images', 20, '--out', 'e.json')
    output = run('benchmarks.speed', *options, cwd=tmp_path).stdout
    record = json.loads((tmp_path / 'e.json').read_text())
    assert record['largest_difference'] < 1e-6
    assert 'pycocotools' in output


@pytest.mark.parametrize(
    ('args', 'words'),
    [
        (('module', '--rounds', '0'), '--rounds 0 is too small; give 1 or more'),
        (('module', '--shapes', '2x3'), "'2x3' is not a shape; give NxCxHxW"),
        (('detector', 'faster_rcnn_r50', '--size', '2x3x4x5'), "'2x3x4x5' is not a size; give HxW"),
        (('detector', 'faster_rcnn_r5'), 'faster_rcnn_r50'),
        (('plot', 'none.json', 'a.svg'), 'there is no record none.json'),
        (('plot', str(ROOT / 'results/demo.json'), 'a.svg'), 'has no key maps'),
    ],
    ids=str,
)
def test_wrong_argument_is_reported_in_one_line(args, words, run, tmp_path):
    assert words in run('benchmarks.speed', *args, cwd=tmp_path, status=2).stderr
