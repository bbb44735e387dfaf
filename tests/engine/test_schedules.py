"""A resumed run names the settings of the checkpoint that it uses, and where schedules end."""

from __future__ import annotations

from math import cos, pi

import pytest
from mmengine.runner import Runner

from cbam_det.utils.errors import InputError

from .tiny_run import toy

COSINE = dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True, eta_min=0.01)


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    """The warnings of the runs of a test."""
    messages: list[str] = []
    make = Runner.build_logger

    def build_logger(self, *args, **options):
        logger = make(self, *args, **options)
        monkeypatch.setattr(logger, 'warning', messages.append)
        return logger

    monkeypatch.setattr(Runner, 'build_logger', build_logger)
    return messages


def cosine(epochs: int) -> list[dict]:
    return [dict(COSINE, T_max=epochs, end=epochs)]


def of_schedules(messages: list[str]) -> list[str]:
    return [
        line for line in messages if line.startswith(('resumed: ', 'the last schedule', 'Cosine'))
    ]


def rate(runner: Runner) -> float:
    return runner.optim_wrapper.get_lr()['lr'][0]


def test_more_epochs_after_the_end_name_the_rate_that_is_used(tiny_runs, tmp_path, warnings):
    """Train two epochs by a cosine of two, then resume to four with other T_max and end."""
    toy(tmp_path, max_epochs=2, param_scheduler=cosine(2)).train()
    assert of_schedules(warnings) == []
    runner = toy(tmp_path, max_epochs=4, param_scheduler=cosine(4), resume=True)
    runner.train()
    restored, ended = of_schedules(warnings)
    assert restored.startswith(
        'resumed: param_scheduler.0.T_max=6 (config: 12), param_scheduler.0.end=6 (config: 12). '
        'The values of the checkpoint are used; for those of the config, start from its weights: '
        f'--cfg-options load_from={tmp_path}'
    )
    assert rate(runner) == pytest.approx(0.01 + 0.09 * (1 + cos(pi * 5 / 6)) / 2)
    assert ended.startswith(
        'the last schedule of the learning rate (CosineAnnealingLR) ended at iteration 6: '
        f'iterations 7 to 12 train with lr {rate(runner):g}; give param_scheduler an end'
    )
    warnings.clear()
    toy(tmp_path, max_epochs=5, param_scheduler=cosine(2), resume=True).train()
    [ended] = of_schedules(warnings)
    assert f'iterations 13 to 15 train with lr {rate(runner):g}' in ended


def test_training_that_goes_on_as_its_config_says_is_not_warned(tiny_runs, tmp_path, warnings):
    warm_up = dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=2)
    schedules = [warm_up, *cosine(3)]
    toy(tmp_path, max_epochs=2, param_scheduler=schedules).train()
    toy(tmp_path, max_epochs=3, param_scheduler=schedules, resume=True).train()
    toy(tmp_path / 'constant', param_scheduler=warm_up).train()
    assert of_schedules(warnings) == []


def test_schedule_that_ends_before_the_training_is_warned_of(tiny_runs, tmp_path, warnings):
    toy(tmp_path, param_scheduler=dict(COSINE, T_max=2, end=2)).train()
    assert of_schedules(warnings) == [
        'the last schedule of the learning rate (CosineAnnealingLR) ends at iteration 6 of 9, '
        'after which the rate is constant; give param_scheduler an end (and T_max, milestones) for '
        'the whole training'
    ]


def test_schedule_by_epochs_in_a_training_by_iterations_is_warned_of(tiny_runs, tmp_path, warnings):
    schedule = dict(type='CosineAnnealingLR', T_max=3, by_epoch=True)
    toy(tmp_path, by_epoch=False, param_scheduler=schedule).train()
    [message] = of_schedules(warnings)
    assert message.startswith('CosineAnnealingLR of param_scheduler counts epochs')


def test_checkpoints_by_epochs_in_a_training_by_iterations_are_warned_of(
    tiny_runs, tmp_path, warnings
):
    toy(tmp_path / 'run', by_epoch=False, checkpoint=dict(by_epoch=True, interval=1)).train()
    [message] = [line for line in warnings if 'checkpoint.by_epoch' in line]
    assert message.endswith(
        'no checkpoint is written before its end; give --cfg-options '
        'default_hooks.checkpoint.by_epoch=False default_hooks.checkpoint.interval=3'
    )
    warnings.clear()
    for by_epoch in (True, False):
        toy(tmp_path / str(by_epoch), by_epoch=by_epoch).train()
    assert not [line for line in warnings if 'checkpoint.by_epoch' in line]


def test_loader_without_a_batch_is_refused(tiny_runs, tmp_path):
    runner = toy(tmp_path)
    runner._train_dataloader.update(batch_size=64, drop_last=True)
    with pytest.raises(InputError, match='drop_last=True leaves no batch of 64 from 12 images'):
        runner.train()


def test_changed_options_of_the_optimizer_are_named(tiny_runs, tmp_path, warnings):
    schedule = dict(type='ExponentialLR', gamma=0.9, by_epoch=False, end=100)
    toy(tmp_path, max_epochs=1, param_scheduler=schedule).train()
    changed = dict(lr=0.01, weight_decay=0.5)
    runner = toy(tmp_path, max_epochs=2, param_scheduler=schedule, optimizer=changed, resume=True)
    runner.train()
    [message] = of_schedules(warnings)
    assert 'optim_wrapper.optimizer.lr=0.1 (config: 0.01)' in message
    assert 'optim_wrapper.optimizer.weight_decay=0 (config: 0.5)' in message
    assert message.count('config: ') == 2 and rate(runner) == pytest.approx(0.1 * 0.9**6)


def test_optimizer_of_other_groups_is_refused(tiny_runs, tmp_path):
    toy(tmp_path, max_epochs=1).train()
    runner = toy(tmp_path, max_epochs=2, resume=True)
    runner.optim_wrapper['paramwise_cfg'] = dict(bias_lr_mult=2)
    with pytest.raises(InputError, match="optimizer has 1 groups of parameters and the config's 2"):
        runner.train()
