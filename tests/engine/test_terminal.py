"""What a run shows on a terminal, and that the log file keeps all of MMEngine's lines."""

from __future__ import annotations

import os
import re
import shlex
import warnings
from pathlib import Path

import pytest

from cbam_det.engine import runner as runner_module
from cbam_det.engine.hooks import terminal_hook
from cbam_det.engine.hooks.terminal_hook import clock, scores, summary
from cbam_det.models.layers.torch_private import with_batch_sampler

from .tiny_run import At, Draw, Noisy, toy

pytestmark = pytest.mark.usefixtures('tiny_runs')


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The output is a terminal."""
    monkeypatch.setenv('COLUMNS', '200')
    monkeypatch.setattr(terminal_hook, 'is_terminal', lambda: True)
    monkeypatch.setattr(runner_module, 'is_terminal', lambda: True)


def log_of(work: Path) -> str:
    return next(work.glob('*/*.log')).read_text()


@pytest.mark.usefixtures('terminal')
def test_a_terminal_shows_a_summary_and_a_line_for_each_epoch(tmp_path, capsys):
    toy(tmp_path, log_level='INFO').train()
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    printed = '\n'.join(lines)
    assert 'data        12 images, 1 classes, 4 per step' in printed
    assert 'model       Noise, 0.00 M parameters' in printed
    assert 'schedule    epochs 1 to 3, 3 steps each, learning rate 0.1' in printed
    titles = [line.split()[0] for line in lines if line[:1].isalpha()][:6]
    assert titles == ['data', 'model', 'attention', 'weights', 'schedule', 'log']
    assert len(lines) < 40 and 'mmengine - INFO' not in printed
    assert 'will be deprecated' not in printed
    epochs = [line.split() for line in lines if re.match(r' +\d/3 ', line)]
    assert [epoch[0] for epoch in epochs] == ['1/3', '2/3', '3/3']
    assert [line.strip() for line in lines if 'toy/score' in line] == [
        f'toy/score {score}.000' for score in (1, 2, 3)
    ]
    log = log_of(tmp_path)
    assert 'Epoch(train)' in log and 'Hooks will be executed' in log


@pytest.mark.usefixtures('terminal')
def test_joined_sets_have_a_summary_and_the_printed_command_keeps_a_blank(
    tmp_path, capsys, monkeypatch
):
    colours = [dict(Noisy.metainfo, palette=[(0, 0, shade)]) for shade in (1, 2)]
    monkeypatch.setattr(Noisy, 'metainfo', colours)  # mmdet's for sets that differ
    toy(tmp_path / 'my run', max_epochs=1).train()
    printed = capsys.readouterr().out
    assert 'data        12 images, 1 classes, 4 per step' in printed
    command = printed.splitlines()[-1].partition('attention and Grad-CAM: ')[2]
    assert shlex.split(command)[-3:] == ['tools/visualize.py', 'report', str(tmp_path / 'my run')]


def test_a_batch_sampler_may_have_no_size(tmp_path):
    run = toy(tmp_path, max_epochs=1)
    run.train()
    assert summary(run)['data'] == '12 images, 1 classes, 4 per step'
    run.train_loop.dataloader = with_batch_sampler(run.train_dataloader, [[0, 1], [2]])
    assert summary(run)['data'] == '12 images, 1 classes'


@pytest.mark.usefixtures('terminal')
def test_the_line_of_an_epoch_has_the_mean_loss_of_its_steps(tmp_path, capsys):
    losses = []
    note = [
        At(step, lambda run: losses.append(run.message_hub.get_scalar('train/loss').current()))
        for step in (1, 2, 3)
    ]
    toy(tmp_path, *note, max_epochs=1).train()
    line = next(line for line in capsys.readouterr().out.splitlines() if '1/1 ' in line)
    assert float(line.split()[1]) == pytest.approx(sum(losses) / 3, abs=1e-4)


@pytest.mark.usefixtures('terminal')
def test_a_run_without_epochs_shows_its_validations(tmp_path, capsys):
    toy(tmp_path, by_epoch=False).train()
    lines = capsys.readouterr().out.splitlines()
    validations = [line.split() for line in lines if 'toy/score' in line]
    assert validations == [
        [step, 'toy/score', f'{score}.000'] for score, step in enumerate('369', start=1)
    ]


@pytest.mark.usefixtures('terminal')
def test_a_warning_and_the_end_of_a_stopped_run_reach_the_terminal(tmp_path, capsys):
    def warn(run) -> None:
        run.logger.warning('look here')
        run.logger.info('not here')

    toy(tmp_path, At(2, warn), log_level='INFO').train()
    printed = capsys.readouterr().out
    assert 'look here' in printed and 'not here' not in printed


@pytest.mark.usefixtures('terminal')
def test_a_test_shows_its_lines_and_a_training_after_it_does_not(tmp_path, capsys):
    loader = dict(dataset=Noisy(), batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler'))
    run = toy(
        tmp_path,
        max_epochs=1,
        log_level='INFO',
        test_dataloader=loader,
        test_cfg=dict(),
        test_evaluator=[Draw()],
    )
    run.test()
    printed = capsys.readouterr().out
    assert 'Epoch(test)' in printed and 'metrics written to' in printed
    run.train()
    assert 'mmengine - INFO' not in capsys.readouterr().out


def test_more_workers_than_cores_are_told_once(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda process: {0})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        toy(tmp_path, workers=2, max_epochs=2).train()
    told = [str(one.message) for one in caught if 'worker processes' in str(one.message)]
    assert len(told) == 1 and 'is 1, which is smaller' in told[0]


def test_elsewhere_the_output_has_all_lines(tmp_path, capsys):
    toy(tmp_path, log_level='INFO').train()
    printed = capsys.readouterr().out
    assert 'Hooks will be executed' in printed and 'Epoch(train)' in printed
    assert 'data        12 images' not in printed


@pytest.mark.usefixtures('terminal')
def test_the_hook_can_be_switched_off(tmp_path, capsys):
    off = dict(terminal=None)
    toy(tmp_path, default=off, cfg=dict(default_hooks=off), log_level='INFO').train()
    printed = capsys.readouterr().out
    assert 'Epoch(train)' in printed and 'data        12 images' not in printed


@pytest.mark.parametrize(
    ('seconds', 'text'), [(0.4, '0:00'), (61, '1:01'), (3599.6, '1:00:00'), (7384, '2:03:04')]
)
def test_times_are_hours_minutes_and_seconds(seconds, text):
    assert clock(seconds) == text


def test_the_first_scores_that_are_not_of_a_class_are_shown():
    metrics = {
        'coco/cat_precision': 0.5,
        'coco/bbox_mAP': 0.1234,
        'names': 'x',
        **{f'm{number}': 1.0 for number in range(9)},
    }
    assert scores(metrics) == 'coco/bbox_mAP 0.123, m0 1.000, m1 1.000, m2 1.000'
