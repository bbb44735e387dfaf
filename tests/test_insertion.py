"""Plugins at any named module: places, equality with the equations, and what hosts go through."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from cbam_det import CBAM
from cbam_det.errors import InputError
from cbam_det.insertion import find_channels, insert, match

R18 = dict(type='ResNet', depth=18, base_channels=8)
BLOCKS = 'layer*.*.bn2'
FPN = dict(type='FPN', in_channels=[8, 16], out_channels=8, num_outs=3)
ROI_LAYER = dict(type='RoIAlign', output_size=7, sampling_ratio=0)
HOSTS = {
    'ResNet-18': (R18, BLOCKS, 8),
    'ResNeXt': (
        dict(type='ResNeXt', depth=50, groups=4, base_width=4, base_channels=8),
        'layer4.*.bn3',
        3,
    ),
    'ResNetV1d, a stage': (dict(type='ResNetV1d', depth=18, base_channels=8), 'layer3', 1),
    'Res2Net': (
        dict(type='Res2Net', depth=50, base_channels=8, scales=4, base_width=4),
        'layer1.*.bn3',
        3,
    ),
    'RegNet': (dict(type='RegNet', arch='regnetx_400mf'), 'layer2.*.bn3', 2),
    'VGG16 of SSD': (
        dict(
            type='SSDVGG',
            depth=16,
            with_last_pool=False,
            ceil_mode=True,
            out_indices=(3, 4),
            out_feature_indices=(22, 34),
        ),
        ['features.22', 'features.34'],
        2,
    ),
    'MobileNetV2': (dict(type='MobileNetV2', out_indices=(2,)), 'layer[34].*', 7),
    'FPN': (FPN, 'fpn_convs.*', 2),
    'PAFPN': (dict(FPN, type='PAFPN'), 'pafpn_convs.*', 1),
    'RetinaNet head': (
        dict(type='RetinaHead', num_classes=3, in_channels=8, feat_channels=8),
        'cls_convs.3',
        1,
    ),
    'RPN': (dict(type='RPNHead', in_channels=8, feat_channels=8), 'rpn_conv', 1),
    'RoIAlign': (
        dict(type='SingleRoIExtractor', roi_layer=ROI_LAYER, out_channels=8, featmap_strides=[4]),
        '.',
        1,
    ),
}


@pytest.fixture(autouse=True)
def _mmdet_scope():
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


def with_cbam(host: dict, after: object, **options) -> nn.Module:
    plugins = [dict(cfg=dict(type='CBAM', ratio=2, **options), after=after)]
    base = {key: value for key, value in host.items() if key != 'type'}
    return MODELS.build(dict(type='WithPlugins', base_type=host['type'], plugins=plugins, **base))


def randomise(host: nn.Module) -> nn.Module:
    """Gates that differ from 1/2, so that a gate that does not run is seen."""
    for module in host.modules():
        if isinstance(module, CBAM):
            nn.init.constant_(module.spatial_gate.norm.weight, 1.5)
    host.eval()  # mmdet's ResNet returns None
    return host


@pytest.mark.parametrize(('host', 'after', 'count'), HOSTS.values(), ids=HOSTS)
def test_any_host_takes_cbam_with_its_own_keys_and_modes_unchanged(host, after, count):
    plain = MODELS.build(copy.deepcopy(host))
    ours = with_cbam(host, after)
    assert sum(isinstance(module, CBAM) for module in ours.modules()) == count
    assert type(ours) is type(plain)
    own = [key for key in ours.state_dict() if not key.startswith('inserted.')]
    assert own == list(plain.state_dict())
    modes = {name: module.training for name, module in ours.named_modules()}
    assert {name: modes[name] for name, _ in plain.named_modules()} == {
        name: module.training for name, module in plain.named_modules()
    }
    ours.load_state_dict(plain.state_dict(), strict=False)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key])


def test_basic_block_applies_cbam_before_the_addition():
    net = randomise(with_cbam(R18, BLOCKS))
    block, cbam = net.layer2[0], net.inserted['layer2/0/bn2'].cbam
    x = torch.randn(2, 8, 6, 6)
    inner = block.bn1(block.conv1(x)).relu()
    inner = nn.functional.batch_norm(
        block.conv2(inner),
        block.bn2.running_mean,
        block.bn2.running_var,
        block.bn2.weight,
        block.bn2.bias,
    )
    assert torch.allclose(block(x), (cbam(inner) + block.downsample(x)).relu(), atol=1e-6)


def test_plugin_of_a_sequential_s_child_runs_once():
    net = with_cbam(*HOSTS['VGG16 of SSD'][:2])
    calls = []
    for place in net.inserted.values():
        place.cbam.register_forward_hook(lambda *args: calls.append(1))
    net(torch.randn(1, 3, 64, 64))
    assert len(calls) == 2


def test_several_plugins_at_a_place_run_in_their_order():
    plugins = [
        dict(cfg=dict(type='CBAM', ratio=2, order='channel'), after='layer1'),
        dict(cfg=dict(type='CBAM', ratio=2, order='spatial'), after=['layer1', 'layer2']),
    ]
    net = insert(MODELS.build(dict(R18)), plugins)
    net.eval()
    assert list(net.inserted) == ['layer1', 'layer2']
    assert list(net.inserted.layer1) == ['cbam', 'cbam2']
    first, second = net.inserted.layer1.cbam, net.inserted.layer1.cbam2
    assert (first.order, second.order) == ('channel', 'spatial')
    x = torch.randn(1, 8, 5, 5)
    raw = nn.Sequential(*net.layer1)(x)
    assert torch.equal(net.layer1(x), second(first(raw)))


def test_host_s_own_plugins_and_ours_stand_side_by_side():
    plugins = [
        dict(cfg=dict(type='CBAM', ratio=4), position='after_conv3'),
        dict(cfg=dict(type='CBAM', ratio=4), after='layer4'),
    ]
    net = MODELS.build(
        dict(type='WithPlugins', base_type='ResNet', depth=50, base_channels=8, plugins=plugins)
    )
    assert sum(isinstance(module, CBAM) for module in net.modules()) == 17


def test_no_plugins_build_the_host_alone():
    net = MODELS.build(dict(type='WithPlugins', base_type='ResNet', depth=18, plugins=None))
    assert not hasattr(net, 'inserted')


def test_plugins_of_frozen_stages_train():
    net = with_cbam(dict(R18, frozen_stages=2), BLOCKS)
    net.train()
    assert not any(parameter.requires_grad for parameter in net.layer1.parameters())
    assert all(parameter.requires_grad for parameter in net.inserted.parameters())


def test_host_s_initialisation_keeps_the_start_of_the_plugin():
    net = with_cbam(R18, BLOCKS)
    net.init_weights()
    for place in net.inserted.values():
        assert place.cbam.spatial_gate.norm.weight.item() == 0


def test_checkpointed_blocks_have_the_same_gradients():
    plain = randomise(with_cbam(R18, BLOCKS))
    other = randomise(with_cbam(dict(R18, with_cp=True), BLOCKS))
    other.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 64, 64)
    for net in (plain, other):
        net(x.clone().requires_grad_())[-1].sum().backward()
    for (name, ours), theirs in zip(plain.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


@pytest.mark.parametrize(
    'change',
    [
        copy.deepcopy,
        lambda net: pickle.loads(pickle.dumps(net)),
        lambda net: torch.jit.trace(net, torch.zeros(1, 3, 64, 64)),
        lambda net: torch.compile(net, backend='eager'),
    ],
    ids=['deepcopy', 'pickle', 'trace', 'compile'],
)
def test_copies_run_the_same_function(change):
    net = randomise(with_cbam(dict(R18, out_indices=(3,)), BLOCKS))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        target, found = net(x), change(net)(x)
    assert torch.allclose(found[-1], target[-1], atol=1e-6)


def test_copy_runs_its_own_plugins():
    net = randomise(with_cbam(R18, BLOCKS))
    other, x = copy.deepcopy(net), torch.randn(1, 3, 64, 64)
    before = net(x)[-1]
    for parameter in other.inserted.parameters():
        nn.init.constant_(parameter, 0.3)
    assert torch.equal(net(x)[-1], before)
    assert not torch.equal(other(x)[-1], before)


def test_conversion_of_norms_does_not_lose_the_plugins():
    """MMEngine and torch put new modules in the place of norms, without their hooks."""
    net = randomise(with_cbam(R18, BLOCKS))
    x = torch.randn(1, 3, 64, 64)
    target = net(x)[-1]
    reverted = revert_sync_batchnorm(nn.SyncBatchNorm.convert_sync_batchnorm(net))
    reverted.eval()
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in reverted.modules())
    torch.testing.assert_close(reverted(x)[-1], target)


def test_autocast_runs():
    net = with_cbam(R18, BLOCKS)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.isfinite(net(torch.randn(1, 3, 64, 64))[-1]).all()


@pytest.mark.parametrize(
    ('pattern', 'names'),
    [
        ('layer[12].0.bn2', ['layer1.0.bn2', 'layer2.0.bn2']),
        ('layer4.**.bn*', ['layer4.0.bn1', 'layer4.0.bn2', 'layer4.1.bn1', 'layer4.1.bn2']),
        ('*.downsample', []),
        (['layer3', 'layer2'], ['layer2', 'layer3']),
        ('.', ['.']),
    ],
)
def test_pattern_names_parts_between_dots(pattern, names):
    net = MODELS.build(dict(R18))
    if names:
        assert match(net, pattern) == names
    else:
        with pytest.raises(InputError, match='matches no module'):
            match(net, pattern)


@pytest.mark.parametrize(
    ('host', 'after', 'words'),
    [
        (R18, 'layer1.*.bn3', r"after='layer1.\*.bn3' matches no module of ResNet; near names: "),
        (R18, '.', 'no feature map'),
        (FPN, '.', 'the output is tuple, no feature map'),
        (FPN, 'fpn_convs', 'cannot be found out'),
    ],
)
def test_unfit_place_is_an_error_that_lists_near_ones(host, after, words):
    with pytest.raises(InputError, match=words):
        with_cbam(host, after)


def test_unknown_option_of_an_entry_is_an_error():
    with pytest.raises(InputError, match='stages is unknown'):
        insert(MODELS.build(dict(R18)), [dict(cfg={}, after='layer1', stages=(True,))])


def test_channels_are_those_of_the_output():
    net = MODELS.build(dict(R18))
    assert find_channels(net, ['layer1', 'layer4.0.conv1', 'maxpool']) == {
        'layer1': 8,
        'layer4.0.conv1': 64,
        'maxpool': 8,
    }
