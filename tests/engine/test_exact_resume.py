"""A run that is resumed equals the uninterrupted one: images, random numbers, weights."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from cbam_det.checkpoints import loading
from cbam_det.engine.hooks.exact_resume_hook import random_states, set_random_states
from cbam_det.utils.exits import Stopped

from ..conftest import CONFIG, QUICK, in_process
from .tiny_run import BATCH, IMAGES, At, kill, load, same, toy

pytestmark = pytest.mark.usefixtures('tiny_runs')


@pytest.mark.parametrize('workers', [0, 2])
def test_run_resumed_at_an_epoch_s_end_equals_the_uninterrupted_one(workers, tmp_path):
    toy(tmp_path / 'whole', workers=workers).train()
    for name, seed, default in (
        *(('resumed', 0, {}), ('seedless', None, {})),
        ('mmengine', 0, dict(exact_resume=None)),
    ):
        first = tmp_path / 'whole/epoch_1.pth'
        options = dict(workers=workers, seed=seed, default=default)
        toy(tmp_path / name, resume=True, load_from=str(first), **options).train()
    last = [
        tmp_path / name / 'epoch_3.pth' for name in ('whole', 'resumed', 'seedless', 'mmengine')
    ]
    assert same(last[0], last[1])
    assert same(last[0], last[2])
    assert not same(last[0], last[3])  # what MMEngine alone restores is not enough


def test_workers_draw_anew_in_each_epoch_and_each_differently(tmp_path):
    runner = toy(tmp_path, workers=2)
    runner.train()
    seen = np.array(runner.model.seen)
    assert [sorted(epoch) for epoch in seen[:, 0].reshape(3, IMAGES)] == [list(range(IMAGES))] * 3
    for generator in (1, 2, 3):
        assert len(set(seen[:, generator])) == 3 * IMAGES


@pytest.mark.parametrize(('at', 'workers'), [(4, 0), (5, 0), (6, 0), (5, 2)])
def test_stopped_epoch_goes_on_with_the_images_that_it_has_not_seen(at, workers, tmp_path):
    whole = toy(tmp_path / 'whole', workers=workers)
    whole.train()
    with pytest.raises(Stopped, match=rf'stopped by SIGTERM after iteration {at} of 9: saved '):
        toy(tmp_path / 'cut', At(at, kill), workers=workers).train()
    stopped = tmp_path / 'cut/stopped.pth'
    assert (tmp_path / 'cut/last_checkpoint').read_text() == str(stopped)
    assert load(stopped)['meta']['iter'] == at
    checkpoint = loading.last_readable_checkpoint(tmp_path / 'cut')
    resumed = toy(tmp_path / 'cut', resume=True, load_from=checkpoint, workers=workers)
    resumed.train()
    expected = np.array(whole.model.seen)[at * BATCH :]
    seen = np.array(resumed.model.seen)
    assert resumed.iter == 9
    assert seen[:, 0].tolist() == expected[:, 0].tolist()
    if not workers:
        assert same(tmp_path / 'whole/epoch_3.pth', tmp_path / 'cut/epoch_3.pth')


def test_resumed_processes_with_own_seeds_share_the_sampler_s_seed(tmp_path, monkeypatch):
    own = dict(seed=0, diff_rank_seed=True)
    monkeypatch.setattr('mmengine.dataset.sampler.sync_random_seed', lambda: 71)
    toy(tmp_path, randomness=own, max_epochs=1).train()
    monkeypatch.setattr('mmengine.runner.utils.get_rank', lambda: 1)  # the second process
    monkeypatch.setattr('mmengine.dataset.sampler.sync_random_seed', lambda: 99)
    first = str(tmp_path / 'epoch_1.pth')
    runner = toy(tmp_path, randomness=own, max_epochs=2, resume=True, load_from=first)
    runner.train()
    assert runner.seed == 1 and runner.train_dataloader.sampler.seed == 71


@pytest.mark.parametrize('workers', [0, 2])
def test_iterations_go_on_with_the_images_that_are_next(workers, tmp_path):
    whole = toy(tmp_path / 'whole', by_epoch=False, workers=workers)
    whole.train()
    with pytest.raises(Stopped, match='after iteration 5 of 9'):
        toy(tmp_path / 'cut', At(5, kill), by_epoch=False, workers=workers).train()
    options = dict(resume=True, load_from=str(tmp_path / 'cut/stopped.pth'), by_epoch=False)
    resumed = toy(tmp_path / 'cut', workers=workers, **options)
    resumed.train()
    seen, expected = np.array(resumed.model.seen), np.array(whole.model.seen)[5 * BATCH :]
    assert seen[:, 0].tolist() == expected[:, 0].tolist()
    if workers:
        assert not set(seen[:, 1]) & set(np.array(whole.model.seen)[:, 1])
    else:
        assert same(tmp_path / 'whole/iter_9.pth', tmp_path / 'cut/iter_9.pth')


def test_random_states_pass_a_checkpoint(tmp_path):
    torch.save(random_states(), tmp_path / 'states.pth')
    drawn = [random.random(), random.gauss(0, 1), *np.random.randn(3), torch.rand(()).item()]
    set_random_states(torch.load(tmp_path / 'states.pth', weights_only=True))
    again = [random.random(), random.gauss(0, 1), *np.random.randn(3), torch.rand(()).item()]
    assert drawn == again


def test_detector_resumed_after_an_epoch_has_the_weights_of_the_uninterrupted_run(
    trained, digits, tmp_path, monkeypatch, capfd
):
    options = ['--work-dir', str(tmp_path), '--data-root', str(digits)]
    options += ['--resume', str(trained / 'work/epoch_1.pth'), '--cfg-options', *QUICK]
    assert in_process('train')(CONFIG, *options, 'train_cfg.max_epochs=2') == 0
    whole, resumed = load(trained / 'work/epoch_2.pth'), load(tmp_path / 'epoch_2.pth')
    assert whole['state_dict'].keys() == resumed['state_dict'].keys()
    for key, value in whole['state_dict'].items():
        assert torch.equal(value, resumed['state_dict'][key]), key
    assert whole['meta']['iter'] == resumed['meta']['iter'] == 6
    assert 'exact_resume' not in resumed['meta']['cfg']  # the tool's doing, not the config's
