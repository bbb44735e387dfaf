"""Options of CBAM: its names in registries, what the options build, and invalid values."""

from __future__ import annotations

import pytest
import torch
from mmcv.cnn import build_plugin_layer
from mmengine.registry import MODELS, Registry
from torch import nn

from cbam_det import CBAM

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.mark.parametrize('scope', ['mmengine', 'mmdet', 'mmseg', 'mmyolo', 'mmrotate'])
@pytest.mark.parametrize('name', ['CBAM', 'CBAMDet'])
def test_plugin_builder_finds_the_module_in_every_scope(scope, name):
    is_new = scope not in ('mmengine', *MODELS.children)
    registry = Registry('model', scope=scope, parent=MODELS) if is_new else None
    registry = registry or MODELS.children.get(scope, MODELS)
    try:
        assert registry.get(name) is CBAM
        attribute, module = build_plugin_layer(dict(type=name), '_x', in_channels=32)
        assert (attribute, type(module)) == ('cbam_x', CBAM)
    finally:
        if is_new:
            del MODELS.children[scope]


def test_second_name_works_in_a_scope_with_another_cbam():
    registry = Registry('model', scope='has_own_cbam', parent=MODELS)
    try:
        registry.register_module(name='CBAM', module=nn.Identity)
        assert registry.get('CBAM') is nn.Identity
        assert registry.get('CBAMDet') is CBAM
        assert registry.get('mmengine.CBAM') is CBAM
    finally:
        del MODELS.children['has_own_cbam']


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(ratio=512), 'ratio=512 leaves no hidden channel of 256; use ratio <= 256'),
        (dict(ratio=0), 'ratio=0 is not valid'),
        (dict(ratio=2.5), 'ratio=2.5 is not valid'),
        (dict(in_channels=0), 'in_channels=0 is not valid'),
        (dict(kernel_size=4), 'kernel_size=4 is even; use 5'),
        (dict(kernel_size=-1), 'kernel_size=-1 is not valid'),
        (dict(pools=()), r'pools=\(\) is not valid; give one or more of avg, max, lp, lse'),
        (dict(pools=('avg', 'avg')), 'each once'),
        (dict(pools=('mean',)), 'mean'),
        (dict(pools=3), 'pools=3 is not valid; give one or more of avg, max, lp, lse'),
        (dict(pools=[['avg']]), r"pools=\[\['avg'\]\] is not valid"),
        (dict(spatial_pools=None), 'spatial_pools=None is not valid'),
        (dict(spatial_pools=('conv', 'max')), 'spatial_pools'),
        (dict(order='space'), "order='space' is unknown; choose from channel-spatial"),
    ],
    ids=str,
)
def test_invalid_option_is_an_error_with_value_and_remedy(options, words):
    with pytest.raises(ValueError, match=words):
        CBAM(**{'in_channels': 256, **options})


def test_misspelt_option_is_an_error():
    with pytest.raises(TypeError, match='reduction'):
        build_plugin_layer(dict(type='CBAM', reduction=8), '', in_channels=64)


def test_option_of_an_absent_gate_is_ignored():
    assert CBAM(8, order='spatial').channel_gate is None  # ratio 16 would not fit 8 channels


def test_hidden_width_reaches_one_and_not_zero():
    assert CBAM(16, ratio=16).channel_gate.fc1.out_features == 1
    assert CBAM(31, ratio=16).channel_gate.fc1.out_features == 1


def test_init_cfg_is_honoured_over_the_authors_start():
    module = CBAM(8, 2, init_cfg=dict(type='Constant', layer='Linear', val=0.25, bias=0.5))
    module.init_weights()
    assert module.channel_gate.fc1.weight.unique().tolist() == [0.25]
    assert module.channel_gate.fc2.bias.unique().tolist() == [0.5]
    assert module.spatial_gate.norm.weight.item() == 0


def test_other_norm_and_activation_are_built():
    norm_cfg = dict(type='GN', num_groups=1)
    module = CBAM(8, 2, norm_cfg=norm_cfg, act_cfg=dict(type='GELU'))
    assert isinstance(module.spatial_gate.norm, nn.GroupNorm)
    assert isinstance(module.channel_gate.act, nn.GELU)
    assert module(torch.randn(1, 8, 4, 4)).shape == (1, 8, 4, 4)


@pytest.mark.parametrize(
    ('norm_eval', 'frozen', 'moves'),
    [(False, False, True), (True, False, False), (False, True, False)],
)
def test_own_option_and_not_the_backbone_s_decides_whether_the_norm_s_statistics_move(
    norm_eval, frozen, moves
):
    module = CBAM(8, 4, norm_eval=norm_eval, frozen=frozen).train()
    module.spatial_gate.norm.eval()  # as a backbone with norm_eval=True does
    module(torch.randn(2, 8, 6, 6))
    assert (module.spatial_gate.norm.running_mean.item() != 0) == moves
    assert all(value.requires_grad != frozen for value in module.parameters())
    module.eval()
    before = module.spatial_gate.norm.running_mean.item()
    module(torch.randn(2, 8, 6, 6))
    assert module.spatial_gate.norm.running_mean.item() == before


def test_frozen_is_true_or_false():
    with pytest.raises(ValueError, match="frozen='yes' is not valid; give True or False"):
        CBAM(16, frozen='yes')


def test_norm_whose_config_freezes_it_stays_frozen():
    cbam = CBAM(16, norm_cfg=dict(type='BN', requires_grad=False))
    frozen = [name for name, value in cbam.named_parameters() if not value.requires_grad]
    assert frozen == ['spatial_gate.norm.weight', 'spatial_gate.norm.bias']
