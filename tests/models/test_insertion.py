"""Plugins at any named module: places, order, equality with the equations, and errors."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope, Registry
from torch import nn

from cbam_det import CBAM
from cbam_det.models.channels import find_channels
from cbam_det.models.insertion import insert, match
from cbam_det.utils.errors import InputError

from .components import BLOCKS, COMPONENTS, FPN, R18, randomise, with_cbam

pytestmark = pytest.mark.usefixtures('mmdet_scope')


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
    net = with_cbam(*COMPONENTS['VGG16 of SSD'][:2])
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


def test_inference_does_not_overwrite_the_output_of_a_block():
    net = randomise(with_cbam(R18, ['layer1', 'layer1.0.bn2']))
    outputs = []
    net.layer1[-1].register_forward_hook(lambda block, args, y: outputs.append((y, y.clone())))
    with torch.no_grad():
        net.layer1(torch.randn(1, 8, 6, 6))
    assert torch.equal(*outputs[0])


def test_inference_does_not_overwrite_the_input_where_a_forward_was_replaced():
    """As users switch a norm or an attention off."""
    net = randomise(with_cbam(R18, BLOCKS))
    norm, cbam = net.layer1[0].bn2, net.inserted['layer1/0/bn2'].cbam
    x = torch.randn(2, 8, 6, 6)
    before = x.clone()
    norm.forward = lambda x: x
    with torch.no_grad():
        assert torch.equal(norm(x), cbam(before))
        assert torch.equal(x, before)
        del norm.forward
        cbam.forward = lambda x: x
        assert norm(x).shape == x.shape


def test_a_subclass_with_its_own_forward_is_inserted():
    class Plain(CBAM):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)

    MODELS.register_module(module=Plain, force=True)
    try:
        plugins = [dict(cfg=dict(type='Plain', ratio=2), after='layer1.0.bn2')]
        net = insert(MODELS.build(dict(R18)), plugins)
        with torch.no_grad():
            assert net.layer1(torch.randn(1, 8, 6, 6)).shape == (1, 8, 6, 6)
    finally:
        MODELS.module_dict.pop('Plain')


def test_two_plugins_whose_name_ends_in_a_digit_are_both_inserted_at_one_place():
    class Doubling(nn.Module):
        _abbr_ = 'attention2'

        def __init__(self, in_channels: int) -> None:
            super().__init__()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    plugins = 2 * [dict(cfg=dict(type=Doubling), after='layer1')]
    net, plain = insert(MODELS.build(dict(R18)), plugins), MODELS.build(dict(R18))
    plain.load_state_dict(net.state_dict())
    image = torch.rand(1, 8, 6, 6)
    with torch.no_grad():
        assert torch.equal(net.layer1(image), 4 * plain.layer1(image))


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
    ('component', 'after', 'words'),
    [
        (
            R18,
            'layer1.*.bn3',
            r"after='layer1.\*.bn3' matches no module of ResNet; similar names: ",
        ),
        (R18, '.', 'not a feature map'),
        (FPN, '.', 'the output is tuple, not a feature map'),
        (FPN, 'fpn_convs', 'cannot be determined'),
    ],
)
def test_invalid_place_is_an_error_that_lists_similar_names(component, after, words):
    with pytest.raises(InputError, match=words):
        with_cbam(component, after)


@pytest.mark.parametrize(
    ('base', 'plugin', 'words'),
    [
        ('ResNet', dict(cfg=dict(type='CBMA'), after='layer1'), "no plugin 'CBMA' is registered"),
        ('ResNet', dict(cfg=dict(type='CBAM'), aftr='layer1'), 'aftr is unknown; an entry has'),
        (
            'MobileNetV2',
            dict(cfg=dict(type='CBAM'), position='after_conv3'),
            'not in MobileNetV2; give after=',
        ),
        (
            'ResNet',
            dict(cfg=dict(type='CBAM'), position='after_conv3'),
            r"position='after_conv3' \(Not implemented yet.\); mmdet allows after_conv1",
        ),
        (
            'ResNet',
            dict(cfg=dict(type='CBAM'), position='after_conv3', after='layer1'),
            r"plugins\[0\] has position='after_conv3' and after='layer1'; leave one out",
        ),
        ('ResNet', dict(cfg=None), r'plugins\[0\].cfg=None is not a config with a type; give cfg='),
        ('ResNet', dict(cfg='CBAM'), r"plugins\[0\].cfg='CBAM' is not a config with a type"),
        ('ResNet', dict(after='layer1'), r'plugins\[0\].cfg=None is not a config with a type'),
        ('ResNet', dict(cfg=dict(ratio=8)), r"cfg={'ratio': 8} is not a config with a type"),
        ('ResNet', 'CBAM', r"plugins\[0\]='CBAM' is not a dictionary; give plugins="),
        ('ResNet', dict(cfg=dict(type='CBAM'), after=3), 'after=3 is not valid; give a pattern'),
        (
            'ResNet',
            dict(cfg=dict(type='CBAM'), after=[]),
            r'after=\[\] is not valid; give a pattern',
        ),
        ('ResNet', dict(cfg=dict(type='CBAM'), after=[3]), r'after=\[3\] is not valid'),
        (
            'ResNet',
            dict(cfg=dict(type='BN'), after='layer1'),
            "cfg={'type': 'BN'} does not build a plugin for 64 channels",
        ),
        (
            'ResNet',
            dict(cfg=dict(type='CBAM', rato=8), after='layer1'),
            r"CBAM.* got an unexpected keyword argument 'rato'; did you mean 'ratio'",
        ),
    ],
)
def test_invalid_entry_is_an_error_that_names_it(base, plugin, words):
    with pytest.raises(InputError, match=words):
        MODELS.build(dict(type='WithPlugins', base_type=base, depth=18, plugins=[plugin]))


def test_plugins_are_a_list():
    plugins = dict(cfg=dict(type='CBAM'))
    with pytest.raises(InputError, match=r'is not a list; give plugins=\[dict'):
        MODELS.build(dict(type='WithPlugins', base_type='ResNet', depth=18, plugins=plugins))


@pytest.mark.parametrize('second', ['layer1', 'layer2'])
def test_plugins_inserted_later_join_the_first(second):
    net = insert(MODELS.build(dict(R18)), [dict(cfg=dict(type='CBAM', ratio=2), after='layer1')])
    insert(net, [dict(cfg=dict(type='CBAM', ratio=4), after=second)])
    cbams = [module for module in net.inserted.modules() if isinstance(module, CBAM)]
    hidden = {'layer1': 2, 'layer2': 4}[second]  # of the second CBAM, of 8 or 16 channels
    assert [cbam.channel_gate.fc1.out_features for cbam in cbams] == [4, hidden]
    calls = []
    for cbam in cbams:
        cbam.register_forward_hook(lambda cbam, args, y: calls.append(cbam))
    net.eval()
    net(torch.randn(1, 3, 32, 32))
    assert calls == cbams


def test_pattern_whose_star_would_cross_a_dot_gets_a_hint():
    with pytest.raises(
        InputError, match=r"\* matches one part of a name, as in 'layer\*\.\*\.bn2'"
    ):
        match(MODELS.build(dict(R18)), 'layer*.bn2')


def test_unknown_option_of_an_entry_is_an_error():
    with pytest.raises(InputError, match='stage is unknown'):
        insert(MODELS.build(dict(R18)), [dict(cfg={}, after='layer1', stage=(True,))])


def test_channels_are_those_of_the_output():
    net = MODELS.build(dict(R18))
    assert find_channels(net, ['layer1', 'layer4.0.conv1', 'maxpool']) == {
        'layer1': 8,
        'layer4.0.conv1': 64,
        'maxpool': 8,
    }


@pytest.fixture
def other_scope():
    """A scope without components, which does not look them up in mmdet either, as mmrotate's."""
    Registry('model', parent=MODELS, scope='rotated')
    with DefaultScope.overwrite_default_scope('rotated'):
        yield
    MODELS.children.pop('rotated')


def test_component_of_another_scope_is_an_error_that_names_the_scope(other_scope):
    options = {key: value for key, value in R18.items() if key != 'type'}
    cfg = dict(type='WithPlugins', plugins=[dict(cfg=dict(type='CBAM', ratio=2))], **options)
    with pytest.raises(InputError, match=r"'ResNet' is not .*; write base_type='mmdet\.ResNet'$"):
        MODELS.build(dict(cfg, base_type='ResNet'))
    net = MODELS.build(dict(cfg, base_type='mmdet.ResNet'))
    assert sum(isinstance(module, CBAM) for module in net.modules()) == 8
    with pytest.raises(KeyError, match='NoSuchNet is not in'):
        MODELS.build(dict(cfg, base_type='NoSuchNet'))
