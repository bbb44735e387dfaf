"""Plugins do not change the keys, features, initialisation and training of any component."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.model import Sequential
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from torch import nn

from cbam_det import CBAM

from .components import BLOCKS, COMPONENTS, FPN, R18, randomise, with_cbam

pytestmark = pytest.mark.usefixtures('mmdet_scope')


@pytest.mark.parametrize(('component', 'after', 'count'), COMPONENTS.values(), ids=COMPONENTS)
def test_any_component_takes_cbam_with_its_own_keys_and_modes_unchanged(component, after, count):
    plain = MODELS.build(copy.deepcopy(component))
    ours = with_cbam(component, after)
    assert sum(isinstance(module, CBAM) for module in ours.modules()) == count
    assert type(ours) is type(plain)
    own_keys = [key for key in ours.state_dict() if not key.startswith('inserted.')]
    assert own_keys == list(plain.state_dict())
    modes = {name: module.training for name, module in ours.named_modules()}
    assert {name: modes[name] for name, _ in plain.named_modules()} == {
        name: module.training for name, module in plain.named_modules()
    }
    plain.init_weights()  # before, the weights of L2Norm in SSD's neck are not set
    ours.load_state_dict(plain.state_dict(), strict=False)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key])


def flat(output: object) -> list[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return [output]
    return [tensor for part in output for tensor in flat(part)]


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('name', sorted(set(COMPONENTS) - {'RoIAlign'}))
def test_identity_start_leaves_the_features_of_any_component_as_they_are_to_the_bit(name, training):
    component, after, _ = COMPONENTS[name]
    plain, ours = (
        MODELS.build(copy.deepcopy(component)),
        with_cbam(component, after, start='identity'),
    )
    plain.init_weights()
    missing, unknown = ours.load_state_dict(plain.state_dict(), strict=False)
    assert not unknown and all(key.startswith('inserted.') for key in missing)
    plain.train(training)
    ours.train(training)
    channels = component.get('in_channels', 3)
    if component['type'] in ('RetinaHead', 'RPNHead'):
        inputs = tuple(torch.rand(2, channels, size, size) for size in (32, 16, 8, 4, 2))
    elif isinstance(channels, (list, tuple)):
        inputs = tuple(
            torch.rand(2, count, size, size) for count, size in zip(channels, (38, 19), strict=True)
        )
    else:
        inputs = torch.rand(2, 3, 96, 96)
    torch.manual_seed(1)
    expected = flat(plain(inputs))
    torch.manual_seed(1)
    actual = flat(ours(inputs))
    assert len(actual) == len(expected)
    assert all(torch.equal(*pair) for pair in zip(actual, expected, strict=True))


@pytest.mark.parametrize('plugin', [{}, dict(frozen=True)])
def test_attention_of_frozen_stages_trains_unless_its_config_freezes_it(plugin):
    component = dict(type='ResNet', depth=50, base_channels=8, frozen_stages=1, norm_eval=True)
    net = with_cbam(component, 'layer*.*.bn3', **plugin)
    for _ in range(2):
        net.train()
        frozen = {name for name, value in net.named_parameters() if not value.requires_grad}
        inserted = {name for name, _ in net.named_parameters() if name.startswith('inserted.')}
        assert (inserted & frozen) == (inserted if plugin else set())
        assert any(name.startswith('layer1.') for name in frozen)
        net(torch.rand(2, 3, 64, 64))
        moved = [
            module.running_mean.item() != 0
            for name, module in net.named_modules()
            if name.startswith('inserted.') and isinstance(module, nn.BatchNorm2d)
        ]
        assert len(moved) == 16 and all(moved) != bool(plugin)


def test_learning_rate_and_decay_of_the_attention_are_set_by_paramwise_cfg():
    net = with_cbam(dict(type='ResNet', depth=50, base_channels=8), 'layer*.*.bn3')
    paramwise_cfg = dict(custom_keys={'cbam': dict(lr_mult=10, decay_mult=0)})
    optim = build_optim_wrapper(
        net,
        dict(optimizer=dict(type='SGD', lr=0.1, weight_decay=0.01), paramwise_cfg=paramwise_cfg),
    ).optimizer
    names = {id(value): name for name, value in net.named_parameters()}
    for group in optim.param_groups:
        ours = '.cbam.' in names[id(group['params'][0])]
        assert (group['lr'], group['weight_decay']) == ((1.0, 0.0) if ours else (0.1, 0.01))


def test_mmdet_s_own_plugins_and_ours_work_together():
    plugins = [
        dict(cfg=dict(type='CBAM', ratio=4), position='after_conv3'),
        dict(cfg=dict(type='CBAM', ratio=4), after='layer4'),
    ]
    net = MODELS.build(
        dict(type='WithPlugins', base_type='ResNet', depth=50, base_channels=8, plugins=plugins)
    )
    assert sum(isinstance(module, CBAM) for module in net.modules()) == 17


def test_no_plugins_build_the_component_alone():
    net = MODELS.build(dict(type='WithPlugins', base_type='ResNet', depth=18, plugins=None))
    assert not hasattr(net, 'inserted')


def test_plugins_of_frozen_stages_train():
    net = with_cbam(dict(R18, frozen_stages=2), BLOCKS)
    net.train()
    assert not any(parameter.requires_grad for parameter in net.layer1.parameters())
    assert all(parameter.requires_grad for parameter in net.inserted.parameters())


def test_initialisation_of_the_component_keeps_the_start_of_the_plugin():
    net = with_cbam(R18, BLOCKS)
    net.init_weights()
    for place in net.inserted.values():
        assert place.cbam.spatial_gate.norm.weight.item() == 0


def started(build: Callable[[], nn.Module]) -> tuple[nn.ModuleList, dict]:
    """A component and an FPN after it from seed 0, initialised; and their state with a draw."""
    torch.manual_seed(0)
    net = nn.ModuleList([build(), MODELS.build(copy.deepcopy(FPN))])
    for part in net:
        part.init_weights()
    return net, {**net.state_dict(), 'next': torch.rand(3)}


def test_same_seed_gives_the_rest_of_a_pretrained_model_the_same_start(tmp_path):
    """Plugins draw random numbers too, but a fair comparison needs the same heads."""
    torch.save(MODELS.build(copy.deepcopy(R18)).state_dict(), tmp_path / 'r18.pth')
    component = dict(R18, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'r18.pth')))
    _, plain = started(lambda: MODELS.build(copy.deepcopy(component)))
    _, ours = started(lambda: with_cbam(component, BLOCKS))
    assert set(plain) < set(ours)
    assert all(torch.equal(value, ours[key]) for key, value in plain.items())
    place = '0.inserted.layer1/{}/bn2.cbam.channel_gate.fc1.weight'
    assert not torch.equal(ours[place.format(0)], ours[place.format(1)])


SWIN = dict(type='SwinTransformer', embed_dims=8, depths=(1,) * 4, num_heads=(1,) * 4)
PVT = dict(type='PyramidVisionTransformer', embed_dims=8, num_layers=(1,) * 4, num_heads=(1,) * 4)
HOURGLASS = dict(
    type='HourglassNet',
    downsample_times=2,
    num_stacks=1,
    stage_channels=(8, 8, 8),
    stage_blocks=(1, 1, 1),
    feat_channel=8,
)


@pytest.mark.parametrize(
    ('component', 'after'),
    [
        (R18, BLOCKS),
        (FPN, 'fpn_convs.*'),
        (dict(FPN, type='FPN_CARAFE'), 'fpn_convs.*'),
        (SWIN, 'patch_embed.projection'),
        (PVT, 'layers.*.0.projection'),
        (dict(type='DetectoRS_ResNet', depth=50, base_channels=8), 'layer4.*.bn3'),
        (HOURGLASS, 'out_convs.0'),
    ],
    ids=lambda value: value['type'] if isinstance(value, dict) else '',
)
def test_component_from_random_weights_keeps_the_identity_and_what_follows_it(component, after):
    """Many components initialise all layers in them, whatever these are."""
    _, plain = started(lambda: MODELS.build(copy.deepcopy(component)))
    net, ours = started(lambda: copy.deepcopy(with_cbam(component, after)))
    assert list(plain) == [key for key in ours if 'inserted.' not in key]
    assert all(torch.equal(value, ours[key]) for key, value in plain.items())
    cbams = [module for module in net.modules() if isinstance(module, CBAM)]
    assert cbams
    for cbam in cbams:
        assert cbam.channel_gate.fc1.weight.std() > 0
        assert not cbam.channel_gate.fc2.weight.any() and not cbam.spatial_gate.norm.weight.any()


def test_initialisation_of_a_module_around_the_component_draws_nothing_for_plugins():
    states = []
    for build in (lambda: MODELS.build(copy.deepcopy(R18)), lambda: with_cbam(R18, BLOCKS)):
        torch.manual_seed(0)
        init_cfg = dict(type='Kaiming', layer='Conv2d')
        Sequential(build(), init_cfg=init_cfg).init_weights()
        states.append(torch.rand(3))
    assert torch.equal(*states)


@pytest.mark.parametrize(
    ('component', 'after'), [(R18, BLOCKS), (SWIN, 'patch_embed.projection')], ids=['R18', 'Swin']
)
def test_attention_weights_of_a_pretrained_component_are_loaded(component, after, tmp_path):
    state = randomise(with_cbam(component, after)).state_dict()
    file = str(tmp_path / 'trained.pth')
    torch.save({f'backbone.{key}': value for key, value in state.items()}, file)
    init_cfg = ConfigDict(type='Pretrained', checkpoint=file, prefix='backbone.')
    net = with_cbam(dict(component, init_cfg=init_cfg), after)
    net.init_weights()
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
