"""A loss or weights that are not finite stop the run and are not saved as a checkpoint."""

from __future__ import annotations

from math import nan

import pytest
import torch
from mmengine.hooks import EMAHook
from torch import nn

from cbam_det.engine.hooks.finite_losses_hook import FiniteLossesHook
from cbam_det.engine.runner import CheckedRunner
from cbam_det.utils.errors import InputError

from .tiny_run import BATCH, At, state, toy

pytestmark = pytest.mark.usefixtures('tiny_runs')


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_loss_that_is_not_finite_stops_the_run_and_saves_its_batch(value, tmp_path):
    def spoil(runner: CheckedRunner) -> None:
        with torch.no_grad():
            runner.model.layer.bias.fill_(value)

    with pytest.raises(InputError) as error:
        toy(tmp_path, At(3, spoil), checkpoint=dict(interval=2)).train()
    message = str(error.value)
    assert f'the loss is not finite (loss {value:g}; iteration 4, epoch 2) on ' in message
    saved = torch.load(tmp_path / 'nonfinite_iter_4.pth', weights_only=True)
    paths = [sample['img_path'] for sample in saved['batch']['data_samples']]
    assert len(paths) == BATCH and ', '.join(paths) in message
    assert [f'{int(image[0])}.jpg' for image in saved['batch']['inputs']] == paths
    assert saved['iter'] == 4 and not saved['losses']['loss'].isfinite()
    assert not list(tmp_path.glob('epoch_*'))


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    """A finite loss, whose gradient spoils the weights in the iteration before a checkpoint."""

    def spoil(runner: CheckedRunner) -> None:
        runner.model.layer.bias.data.fill_(float('nan'))

    with pytest.raises(InputError, match=r'1 tensors of the weights are not finite \(layer\.bias'):
        toy(tmp_path, At(6, spoil)).train()
    assert [path.name for path in tmp_path.glob('*.p[at]*')] == ['epoch_1.pth']


@pytest.mark.parametrize(
    ('spoilt', 'message'),
    [
        (lambda runner: runner.model.ballast, r'\(ballast;'),
        (lambda runner: ema(runner).layer.weight, r'\(ema_state_dict module\.layer\.weight;'),
    ],
    ids=['statistic', 'moving average'],
)
def test_statistics_and_moving_averages_that_are_not_finite_are_not_saved(
    spoilt, message, tmp_path
):
    with pytest.raises(InputError, match=f'1 tensors of the weights are not finite {message}'):
        toy(tmp_path, At(3, lambda runner: spoilt(runner).data[0].fill_(float('inf')))).train()
    assert not list(tmp_path.glob('*.p[at]*'))


def ema(runner: CheckedRunner) -> nn.Module:
    return next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).ema_model.module


def test_number_of_the_log_that_is_no_loss_may_be_nan():
    losses = dict(loss=torch.ones(()), acc=torch.tensor(nan))
    FiniteLossesHook().after_train_iter(None, 0, None, losses)


def test_finite_losses_are_left_out_by_config(tmp_path):
    def spoil(runner: CheckedRunner) -> None:
        runner.model.layer.bias.data.fill_(float('nan'))

    toy(tmp_path, At(4, spoil), default=dict(finite_losses=None)).train()
    assert state(tmp_path / 'epoch_3.pth')['layer.bias'].isnan().all()
