"""The audit of the attention: its table in the log, and what it refuses."""

from __future__ import annotations

import re
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import CheckpointLoader, EpochBasedTrainLoop
from torch import nn

from cbam_det import CBAM, AttentionAuditHook
from cbam_det.checkpoints.attention import check_attention, state_of
from cbam_det.models.build import build_model
from cbam_det.utils.config import larger_rate
from cbam_det.utils.errors import InputError

from ..conftest import CONFIGS, QUICK, ROOT

DIGITS = CONFIGS / 'faster_rcnn_r50_cbam_digits.py'


def resnet(places: dict | None = None, frozen_stages: int = -1, **cfg) -> nn.Module:
    where = dict(after='layer*.*.bn2') if places is None else places
    plugins = [dict(cfg=dict(type='CBAM', ratio=2, **cfg), **where)]
    base = dict(depth=18, base_channels=8, frozen_stages=frozen_stages)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(dict(type='WithPlugins', base_type='ResNet', plugins=plugins, **base))


def rows(log: str) -> list[list[str]]:
    """The cells of the table of attention."""
    rows = [line.strip('│ ').split('│') for line in log.splitlines() if '.cbam ' in line]
    return [[cell.strip() for cell in row] for row in rows]


def test_training_logs_every_cbam_and_the_saturation(trained):
    log = next((trained / 'work').glob('*/*.log')).read_text()
    table = rows(log)
    assert len(table) == 16
    assert table[0] == [
        *('backbone.inserted.layer1/0/bn3.cbam', 'channel-spatial, avg+max, 7x7'),
        *('680', 'new, start=identity', 'yes, lr 1e-05 (base 0.001)'),
    ]


def test_fine_tuning_tells_what_was_loaded_what_is_frozen_and_what_is_saturated(
    trained, digits, run, tmp_path
):
    """One CBAM's weights are taken out of the checkpoint, and one gate is wide open."""
    checkpoint = torch.load(trained / 'work/epoch_2.pth', weights_only=False)
    gone, wide = (f'backbone.inserted.layer{stage}/0/bn3.cbam.' for stage in (1, 2))
    state = {key: v for key, v in checkpoint['state_dict'].items() if not key.startswith(gone)}
    state[f'{wide}channel_gate.fc2.bias'].fill_(50)
    torch.save(dict(state_dict=state), tmp_path / 'start.pth')
    audit = 'default_hooks.attention_audit.saturation_at=2'
    options = ('--cfg-options', *QUICK, 'train_cfg.max_epochs=1', 'load_from=start.pth', audit)
    frozen = 'model.backbone.plugins.0.cfg.frozen=True'
    run(
        'train.py', DIGITS, '--data-root', digits, '--work-dir', 'w', *options, frozen, cwd=tmp_path
    )
    log = next((tmp_path / 'w').glob('*/*.log')).read_text()
    table = [row for row in rows(log) if len(row) == 5]
    assert [row[3] for row in table] == ['new, start=identity'] + 15 * ['start.pth']
    assert {row[4] for row in table} == {'no: frozen=True'}
    [saturated] = [row for row in rows(log) if len(row) == 6]
    assert saturated[:3] == ['backbone.inserted.layer2/0/bn3.cbam', 'channel', '100%']
    assert [float(cell) for cell in saturated[3:]] == [2, 2, 2]


@pytest.mark.parametrize(
    'key',
    [
        'module.layer1.0.cbam.ChannelGate.mlp.1.weight',
        'layer1.0.se.channel.fc1.weight',
        'layer1.0.ca.fc1.weight',
        'channel_attention.fc.0.conv.weight',
        'inserted.layer9/0/bn2.cbam.channel_gate.fc1.weight',
    ],
)
def test_attention_that_no_module_takes_is_an_error_that_names_it(key):
    net = resnet()
    state = state_of({**net.state_dict(), key: torch.zeros(1)})
    name = re.escape(key.removeprefix('module.'))
    with pytest.raises(InputError, match=rf'has 1 attention weights .*{name}.*convert'):
        check_attention(state, net, 'x.pth', whole=False)


def test_attention_of_another_shape_is_an_error():
    state = resnet().state_dict()
    key = 'inserted.layer1/0/bn2.cbam.channel_gate.fc1.weight'
    state[key] = state[key][:1]
    with pytest.raises(InputError, match='has 1 attention weights'):
        check_attention(state, resnet(), 'x.pth', whole=False)


def test_attention_of_a_frozen_stage_is_an_error_that_says_how_to_insert_it():
    every = resnet(frozen_stages=1).state_dict()
    state = {f'backbone.{key}': value for key, value in every.items()}
    detector = nn.ModuleDict(dict(backbone=resnet({}, frozen_stages=1)))
    options = "--cfg-options 'model.backbone.plugins.0.stages=(True,True,True,True)'"
    with pytest.raises(
        InputError, match=re.escape(f'; for the attention of frozen stages add {options}; ')
    ):
        check_attention(state, detector, 'x.pth', whole=False)
    with pytest.raises(InputError, match=re.escape(options)):
        check_attention(every, detector.backbone, 'x.pth', whole=False, place='model.backbone')
    check_attention(every, resnet(dict(stages=(True,) * 4), frozen_stages=1), 'x.pth', whole=True)
    with pytest.raises(InputError) as caught:  # in a stage that is not frozen
        check_attention(every, resnet(dict(after='layer1.*.bn2')), 'x.pth', whole=False)
    assert 'frozen' not in str(caught.value)


def test_absent_attention_is_new_in_training_and_an_error_in_a_test():
    net = resnet()
    plain = {key: v for key, v in net.state_dict().items() if not key.startswith('inserted.')}
    check_attention(plain, net, 'resnet.pth', whole=False)
    with pytest.raises(InputError, match=r'attention weights that resnet\.pth does not have'):
        check_attention(plain, net, 'resnet.pth', whole=True)


def test_weights_of_the_other_start_are_an_error_both_ways():
    identity, paper = resnet(), resnet(start='paper')
    with pytest.raises(InputError, match='has 16 attention weights'):
        check_attention(identity.state_dict(), paper, 'x.pth', whole=True)
    with pytest.raises(InputError, match=r'x\.pth has only a part of .*cbam'):
        check_attention(paper.state_dict(), identity, 'x.pth', whole=False)


def test_pretrained_backbone_with_foreign_attention_stops_before_the_first_step(
    digits, run, tmp_path
):
    torch.save(
        {'layer1.0.cbam.ChannelGate.mlp.1.weight': torch.zeros(1), 'conv1.weight': torch.zeros(1)},
        tmp_path / 'authors.pth',
    )
    (tmp_path / 'mine.py').write_text(
        f'_base_ = {str(DIGITS)!r}\n'
        "init = dict(_delete_=True, type='Pretrained', checkpoint='authors.pth')\n"
        'model = dict(backbone=dict(init_cfg=init))\n'
    )
    done = run('train.py', 'mine.py', '--data-root', digits, cwd=tmp_path, status=2)
    error = done.stderr.splitlines()[-1]
    assert 'authors.pth has 1 attention weights that do not fit the model' in error
    assert 'tools/convert_checkpoint.py' in error and (ROOT / 'tools').is_dir()


@pytest.mark.parametrize('autocast', [False, True])
def test_looking_at_the_gates_leaves_the_training_as_it_is(autocast):
    """The same weights after three steps with a look at the second and the last, and without."""
    results = []
    for saturation_at, steps in ((0, 99), (2, 3)):
        torch.manual_seed(0)
        net = resnet(start='identity')
        net.train()
        optim = torch.optim.SGD(net.parameters(), 0.01)
        audit = AttentionAuditHook(saturation_at)
        messages: list[str] = []
        logger = SimpleNamespace(info=messages.append, warning=messages.append)
        runner = SimpleNamespace(
            model=net, iter=0, max_iters=steps, logger=logger, cfg=Config(dict())
        )
        for step in range(3):
            runner.iter = step
            audit.before_train_iter(runner, step)
            with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
                loss = sum(level.square().mean() for level in net(torch.rand(2, 3, 64, 64)))
            optim.zero_grad()
            loss.backward()
            optim.step()
            audit.after_train_iter(runner, step)
        results.append(net.state_dict())
        words = ('no gate is saturated', 'the attention has no effect') if saturation_at else ()
        assert len(messages) == len(words) and all(map(str.__contains__, messages, words))
        assert not any(
            module._forward_pre_hooks for module in net.modules() if type(module) is CBAM
        )
    plain, looked_at = results
    assert all(torch.equal(plain[key], looked_at[key]) for key in plain)


@pytest.mark.parametrize(
    ('start', 'bias', 'frozen', 'warned'),
    [
        ('identity', 0.0, False, True),
        ('identity', 0.004, False, True),  # weights up to 1.004, printed as 1.00
        ('identity', 0.1, False, False),
        ('identity', 0.0, True, False),  # as it is meant to be
        ('paper', 0.0, False, False),
    ],
)
def test_attention_that_has_hardly_changed_is_reported_at_the_end_with_the_remedy(
    start, bias, frozen, warned
):
    net = resnet(start=start, order='channel', frozen=frozen)
    for cbam in (module for module in net.modules() if type(module) is CBAM):
        nn.init.constant_(cbam.channel_gate.fc2.bias, bias)
    messages: list[str] = []
    logger = SimpleNamespace(info=messages.append, warning=messages.append)
    keys = {'inserted': dict(lr_mult=3)}
    cfg = Config(dict(optim_wrapper=dict(paramwise_cfg=dict(custom_keys=keys))))
    runner = SimpleNamespace(model=net, iter=4, max_iters=5, logger=logger, cfg=cfg)
    audit = AttentionAuditHook()
    audit.before_train_iter(runner, 4)
    net(torch.rand(2, 3, 64, 64))
    audit.after_train_iter(runner, 4)
    assert bool(messages) == warned
    remedy = '--cfg-options optim_wrapper.paramwise_cfg.custom_keys.inserted.lr_mult=30'
    assert not warned or messages[0].endswith(remedy)


def test_remedy_names_the_key_that_is_used():
    def remedy(**keys: float) -> str:
        own = {key.replace('_', '.'): dict(lr_mult=value) for key, value in keys.items()}
        return larger_rate(
            Config(dict(optim_wrapper=dict(paramwise_cfg=dict(custom_keys=own))))
        ).removeprefix('--cfg-options optim_wrapper.paramwise_cfg.custom_keys')

    assert larger_rate(Config(dict())).endswith('paramwise_cfg.custom_keys.cbam.lr_mult=10')
    assert remedy(norm=0.5) == '.cbam.lr_mult=10'
    assert remedy(cbam=2, inserted=3) == '.inserted.lr_mult=30'
    line = "dict(paramwise_cfg=dict(custom_keys={'backbone.inserted': dict(lr_mult=10)}))"
    assert remedy(backbone_inserted=1) == f'optim_wrapper = {line} in the config'


def test_a_checkpoint_shared_by_two_parts_is_taken_by_both():
    """C4: stages 1 to 3 in the backbone, 4 in the head, one file for both."""
    cfg = Config.fromfile(CONFIGS / 'faster_rcnn_r50_c4_cbam.py')
    init = dict(type='Pretrained', checkpoint='both.pth')
    cfg.model.backbone.init_cfg = cfg.model.roi_head.shared_head.init_cfg = init
    model = build_model(cfg)
    state = {**model.backbone.state_dict(), **model.roi_head.shared_head.state_dict()}
    loop = object.__new__(EpochBasedTrainLoop)
    runner = SimpleNamespace(model=model, _train_loop=loop)
    with patch.object(CheckpointLoader, 'load_checkpoint', return_value=state):
        audit = AttentionAuditHook()
        audit.before_run(runner)
        assert len(audit.sources) == 16
        state['inserted.layer5/0/bn3.cbam.channel_gate.fc1.weight'] = torch.zeros(1)
        with pytest.raises(InputError, match='has 1 attention weights'):
            AttentionAuditHook().before_run(runner)


def test_a_plain_detector_s_checkpoint_starts_both_halves_of_a_semi_supervised_one():
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student, self.teacher = resnet(), resnet()

    model = Halves()
    runner = SimpleNamespace(
        model=model,
        _train_loop=object.__new__(EpochBasedTrainLoop),
        _load_from='x.pth',
        _resume=False,
    )
    audit = AttentionAuditHook()
    audit.after_load_checkpoint(runner, dict(state_dict=model.student.state_dict()))
    assert len(audit.sources) == 8 and all(name.startswith('student.') for name in audit.sources)
