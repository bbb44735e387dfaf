"""Runs in channels_last: their checkpoints, resuming in either format, and models that cannot."""

from __future__ import annotations

import copy
import itertools
import json
import re
import shutil

import pytest
import torch
from mmengine.config import Config
from torch import nn

from cbam_det.engine.failures import explain

from ..conftest import CONFIGS, QUICK
from .tiny_run import Noise, load, state, toy

pytestmark = pytest.mark.usefixtures('tiny_runs')


def test_error_of_a_map_that_is_not_contiguous_names_the_line_and_the_remedy():
    x = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError) as raised:
        x.view(2, -1)
    for value in (True, False):
        explained = explain(raised.value, Config(dict(channels_last=value)), None)
        assert (explained is not None) == value
        assert not value or re.search(
            r'channels_last_runs\.py, line \d+, needs contiguous .*; leave --channels-last out',
            str(explained),
        )


class Convolutions(Noise):
    """A toy with 3x3 convolutions, whose weights have another order in channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1)
        )

    def forward(self, inputs: list, data_samples: list, mode: str = 'tensor') -> object:
        x = torch.stack(list(inputs))[..., None, None] * torch.linspace(0, 1, 25).view(5, 5)
        if mode != 'loss':
            return super().forward(inputs, data_samples, mode)
        return dict(loss=self.layer(x).square().mean())


@pytest.mark.parametrize('fused', [True, False])
def test_checkpoint_of_either_format_is_resumed_exactly_in_both(fused, tmp_path):
    """Fused optimizers read weights and momenta in one order, see `align_states`."""
    net, whole, parts = Convolutions(), {}, {}
    for value in (True, False):
        folder = tmp_path / f'whole {value}'
        options = dict(model=copy.deepcopy(net), optimizer=dict(fused=fused))
        toy(folder, cfg=dict(channels_last=value), **options).train()
        whole[value] = state(folder / 'epoch_3.pth')
        assert all(weight.is_contiguous() for weight in whole[value].values())
        momenta = load(folder / 'epoch_3.pth')['optimizer']['state'][0].values()
        assert all(item.is_contiguous() for item in momenta if isinstance(item, torch.Tensor))
    for first, second in itertools.product((True, False), repeat=2):
        folder = tmp_path / f'{first} then {second}'
        options = dict(model=copy.deepcopy(net), optimizer=dict(fused=fused))
        folder.mkdir()
        shutil.copy(tmp_path / f'whole {first}/epoch_2.pth', folder)
        (folder / 'last_checkpoint').write_text(str(folder / 'epoch_2.pth'))
        toy(folder, cfg=dict(channels_last=second), resume=True, **options).train()
        parts[first, second] = state(folder / 'epoch_3.pth')
    for value in (True, False):
        torch.testing.assert_close(parts[value, value], whole[value], rtol=0, atol=0)
        torch.testing.assert_close(parts[value, not value], whole[True], rtol=1e-4, atol=1e-6)


def test_model_is_in_the_format_before_it_is_wrapped_and_starts_with_the_same_weights(
    tmp_path, monkeypatch
):
    """DistributedDataParallel lays out its buckets by the formats that it sees."""

    def initialise(net: Convolutions) -> None:
        torch.manual_seed(5)
        nn.init.normal_(net.layer[0].weight)

    monkeypatch.setattr(Convolutions, 'init_weights', initialise)
    weights = {}
    for value in (True, False):
        runner = toy(tmp_path / str(value), model=Convolutions(), cfg=dict(channels_last=value))
        weight = runner.model.layer[0].weight
        for _ in range(2):  # when DDP would be built, and after the initialisation
            in_format = weight.is_contiguous(memory_format=torch.channels_last)
            assert in_format == value and runner.model.layer[0].weight is weight
            runner._init_model_weights()
        weights[value] = weight
    assert torch.equal(weights[True], weights[False])


def test_weights_alone_are_resumed_before_an_optimizer_is_built(tmp_path):
    toy(tmp_path / 'first').train()
    runner = toy(tmp_path / 'second')
    runner.call_hook('before_run')  # makes the moving average
    path = str(tmp_path / 'first/epoch_1.pth')
    runner.resume(path, resume_optimizer=False, resume_param_scheduler=False)
    assert runner.iter == 3 and isinstance(runner.optim_wrapper, dict)


@pytest.mark.slow
def test_run_with_it_logs_the_losses_of_one_without_it_and_its_checkpoint_is_exported(
    digits, run, tmp_path
):
    logged = {}
    config = CONFIGS / 'faster_rcnn_r18_cbam_digits.py'
    for option in ('--channels-last', '--no-channels-last'):
        where = ('--work-dir', option[2:], '--data-root', digits, option)
        options = (*QUICK, 'train_cfg.max_epochs=1')
        run('train.py', config, *where, '--cfg-options', *options, cwd=tmp_path)
        log = next((tmp_path / option[2:]).glob('*/vis_data/scalars.json'))
        lines = map(json.loads, log.read_text().splitlines())
        logged[option] = [line['loss'] for line in lines if 'loss' in line]
    first, second = logged.values()
    assert len(first) == 3 and first == pytest.approx(second, rel=2e-3)
    checkpoint = tmp_path / 'channels-last/epoch_1.pth'
    weights = torch.load(checkpoint, weights_only=False)['state_dict']
    assert all(weight.is_contiguous() for weight in weights.values())
    run('test.py', config, checkpoint, *where, cwd=tmp_path)
    run('export.py', config, checkpoint, '--out', 'model.onnx', cwd=tmp_path)
