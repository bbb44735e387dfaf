"""A run proves that its attention is used: each gate runs and gets a gradient, or the run ends."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.model.efficient_conv_bn_eval import turn_on_efficient_conv_bn_eval
from mmengine.registry import MODELS
from torch import nn

from cbam_det import CBAM
from cbam_det.engine.hooks.gate_use import GateUse, parent_of
from cbam_det.engine.preflight import check_bypassed
from cbam_det.models.attention_modules import named_plugins
from cbam_det.utils.errors import InputError
from cbam_det.utils.run_config import RunConfig

from .tiny_run import toy


class Gated(BaseModel):
    """Two CBAMs, of which one may be gone past or run without gradients, in a mode or always."""

    def __init__(self, detached: bool = False, past: tuple[str, ...] = (), unused: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 1)
        self.block = Block(past)
        self.only_in_training = Block(())
        self.detached, self.unused = detached, unused
        self.watched: list[int] = []

    def forward(self, inputs: list, data_samples: list, mode: str = 'tensor') -> object:
        self.watched.append(sum(len(module._forward_pre_hooks) for module in self.modules()))
        x = self.conv(torch.stack(list(inputs)).view(-1, 1, 2, 2))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detached):
            x = self.block(x, mode)
        if mode == 'loss' or not self.unused:
            x = self.only_in_training(x, mode)
        return dict(loss=x.square().mean()) if mode == 'loss' else [{} for _ in inputs]


class Block(nn.Module):
    def __init__(self, past: tuple[str, ...]) -> None:
        super().__init__()
        self.cbam, self.past = CBAM(8, 2), past

    def forward(self, x: torch.Tensor, mode: str) -> torch.Tensor:
        return x if mode in self.past else self.cbam(x)


@pytest.fixture(params=[True, False], ids=['by epoch', 'by iteration'])
def by_epoch(request) -> bool:
    return request.param


def test_used_attention_is_watched_for_one_iteration_and_one_batch(tiny_runs, tmp_path):
    model = Gated()
    audit = dict(attention_audit=dict(used_within=1))
    toy(tmp_path, model=model, max_epochs=2, default=audit).train()
    modules = len(list(named_plugins(model))) * 2  # with their parent modules
    batches = [modules, 0, 0, modules, 0, 0]  # an epoch and its validation
    at_the_end = [0, 0, 2, 0, 0, 0]  # the last iteration records what each CBAM multiplies with
    assert model.watched == [*batches, *at_the_end]
    assert not any(value._backward_hooks for value in model.parameters())


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(past=('loss',)), 'the attention at block.cbam has not run by iteration 2: the'),
        (
            dict(detached=True),
            'at block.cbam.channel_gate, block.cbam.spatial_gate has not received a gradient',
        ),
        (
            dict(past=('predict',)),
            'validation did not run the attention at block.cbam, although it ran block; remove',
        ),
    ],
)
def test_attention_that_is_gone_past_ends_the_run(options, words, by_epoch, tiny_runs, tmp_path):
    audit = dict(attention_audit=dict(used_within=2))
    runner = toy(tmp_path, by_epoch=by_epoch, model=Gated(**options), default=audit)
    with pytest.raises(InputError, match=words):
        runner.train()
    assert runner.iter in ((1, 3) if 'loss' not in words else (1,))


def test_part_that_validation_leaves_out_is_warned_of_and_the_run_continues(
    tiny_runs, tmp_path, monkeypatch
):
    runner = toy(tmp_path, model=Gated(unused=True), max_epochs=1)
    warnings: list[str] = []
    monkeypatch.setattr(runner.logger, 'warning', warnings.append)
    runner.train()
    assert warnings == [
        'validation does not use the attention at only_in_training.cbam or the module that '
        'contains it'
    ]


def test_frozen_attention_needs_no_gradient_but_has_to_run(tiny_runs, tmp_path):
    for options, passes in ((dict(detached=True), True), (dict(past=('loss',)), False)):
        model = Gated(**options)
        model.block.requires_grad_(False)
        audit = dict(attention_audit=dict(used_within=2))
        runner = toy(tmp_path / str(passes), model=model, default=audit, max_epochs=1)
        if passes:
            runner.train()
            continue
        with pytest.raises(InputError, match=r'block\.cbam has not run'):
            runner.train()


def test_check_can_be_left_out(tiny_runs, tmp_path):
    audit = dict(attention_audit=dict(used_within=0))
    model = Gated(past=('loss', 'predict'))
    toy(tmp_path, model=model, default=audit, max_epochs=1).train()
    assert model.watched == [0, 0, 2, 0, 0, 0]  # the last iteration records the gates


def backbone(**cfg) -> nn.Module:
    plugins = [dict(cfg=dict(type='CBAM', ratio=2, start='paper', **cfg), after='layer*.*.bn2')]
    cfg = dict(type='WithPlugins', base_type='ResNet', depth=18, base_channels=8, plugins=plugins)
    model = nn.Module()
    model.backbone = MODELS.build(cfg)
    return model


@pytest.mark.parametrize('names', ['backbone', ['backbone'], ['neck', 'backbone']])
def test_option_that_computes_norms_without_their_hooks_is_refused(names):
    cfg = Config(dict(efficient_conv_bn_eval=names))
    with pytest.raises(InputError, match='would skip the attention at backbone'):
        check_bypassed(RunConfig.from_cfg(cfg), backbone())
    check_bypassed(RunConfig.from_cfg(Config(dict(efficient_conv_bn_eval=['neck']))), backbone())
    check_bypassed(RunConfig.from_cfg(Config({})), backbone())


@pytest.mark.parametrize('memory_efficient', [True, False])
def test_every_gate_of_a_network_is_seen_and_with_that_option_none_runs(memory_efficient):
    model = backbone(memory_efficient=memory_efficient)
    model.backbone.eval()
    own_hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    use = GateUse(model, gradients=True)
    sum(level.square().mean() for level in model.backbone(torch.rand(2, 3, 64, 64))).backward()
    assert not (use.not_run() or use.idle() or use.without_gradient())
    assert len(use.trainable) == 16 and parent_of(next(iter(use.parents))) == 'backbone'
    use.close()
    turn_on_efficient_conv_bn_eval(model, 'backbone')
    use = GateUse(model, gradients=True)
    sum(level.square().mean() for level in model.backbone(torch.rand(2, 3, 64, 64))).backward()
    assert len(use.not_run()) == 8 and len(use.without_gradient()) == 16 and not use.idle()
    use.close()
    assert [len(module._forward_pre_hooks) for module in model.modules()] == own_hooks
