"""Attention goes to the paper's places if the config has no pattern."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from cbam_det.models.attention_modules import named_cbams
from cbam_det.models.insertion import paper_places, places_left_out
from cbam_det.utils.errors import InputError

from ..conftest import CONFIGS

IMAGE = torch.zeros(1, 3, 64, 64)
PLUGIN = dict(cfg=dict(type='CBAM', ratio=4))


def build(kind: str, plugins: list[dict] | None = None, **options: object) -> nn.Module:
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(dict(type='WithPlugins', base_type=kind, plugins=plugins, **options))


def inserted(component: nn.Module) -> list[str]:
    return [name.split('.')[1] for name, _ in named_cbams(component)]


@pytest.mark.parametrize('depth', [18, 34, 50, 101])
def test_every_residual_branch_of_a_resnet_has_its_attention_after_its_last_norm(depth):
    component = build('ResNet', [PLUGIN], depth=depth, base_channels=16)
    norm = 'bn2' if depth < 50 else 'bn3'
    blocks = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}[depth]
    expected = [f'layer{s + 1}/{b}/{norm}' for s, count in enumerate(blocks) for b in range(count)]
    assert inserted(component) == expected


def test_other_norms_have_their_places():
    component = build('ResNet', [PLUGIN], depth=50, norm_cfg=dict(type='GN', num_groups=8))
    assert inserted(component)[0] == 'layer1/0/gn3' and len(inserted(component)) == 16


@pytest.mark.parametrize(
    ('kind', 'options', 'first', 'count'),
    [
        ('ResNeXt', dict(depth=50, groups=32, base_width=4), 'layer1/0/bn3', 16),
        ('MobileNetV2', {}, 'layer3/0/linear_conv', 14),
        ('MobileNetV1', dict(widen_factor=0.25), 'layer1/0/depthwise_conv', 26),
        ('CSPNeXt', dict(widen_factor=0.25, deepen_factor=0.25), 'stage1/1/blocks/0/conv2', 6),
        ('SSDVGG', dict(depth=16, input_size=300), 'features/34', 1),
        ('FPN', dict(in_channels=[16, 32], out_channels=16, num_outs=3), 'fpn_convs/0', 2),
    ],
)
def test_each_family_has_the_paper_s_places(kind, options, first, count):
    if kind == 'SSDVGG':
        options = dict(options, ceil_mode=True, out_indices=(3, 4), out_feature_indices=(22, 34))
    component = build(kind, None, **options)
    names = paper_places(component)
    assert (names[0].replace('.', '/'), len(names)) == (first, count)


def test_ssd_has_attention_on_each_of_the_six_maps_of_its_predictors():
    cfg = Config.fromfile(CONFIGS / 'ssd300_vgg16_cbam.py')
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    names = [name for name, _ in named_cbams(model)]
    assert names == [
        'backbone.inserted.features/34.cbam',
        'neck.inserted.l2_norm.cbam',
        *(f'neck.inserted.extra_layers/{level}.cbam' for level in range(4)),
    ]
    outputs = []
    for _, cbam in named_cbams(model):
        cbam.register_forward_hook(lambda cbam, args, output: outputs.append(output))
    model.neck.init_weights()
    model.eval()
    with torch.no_grad():
        maps = model.extract_feat(torch.rand(1, 3, 300, 300))
    assert len(maps) == 6
    assert all(any(torch.equal(level, output) for output in outputs) for level in maps)


def test_stages_keeps_the_places_of_the_stages_that_are_true():
    options = dict(depth=18, base_channels=16)
    component = build('ResNet', [dict(PLUGIN, stages=(False, True, False, True))], **options)
    assert [name.split('/')[0] for name in inserted(component)] == ['layer2'] * 2 + ['layer4'] * 2
    with_pattern = dict(PLUGIN, after='layer*.1.bn2', stages=(False, True, True, False))
    assert inserted(build('ResNet', [with_pattern], **options)) == ['layer2/1/bn2', 'layer3/1/bn2']


def test_stages_means_what_it_means_in_mmdet_s_own_plugins():
    options = dict(depth=50, base_channels=16)
    stages = (False, True, True, False)
    ours = build('ResNet', [dict(PLUGIN, stages=stages)], **options)
    mmdet_s = build('ResNet', [dict(PLUGIN, stages=stages, position='after_conv3')], **options)
    blocks = {name.replace('/', '.').rpartition('.')[0] for name in inserted(ours)}
    assert blocks == {name.rpartition('.')[0] for name, _ in named_cbams(mmdet_s)}


@pytest.mark.parametrize(
    ('stages', 'words'),
    [
        ((True,) * 3, r'has 3 values; ResNet has 4 stages \(layer1, layer2, layer3, layer4\)'),
        ((False,) * 4, 'selects none of the places layer1.0.bn2'),
        ('1111', r"plugins\[0\].stages='1111' is not valid; give one True or False per stage"),
        (('False', 'False', 'True', 'False'), 'is not valid'),
        ((0, 2, 0, 0), r'stages=\(0, 2, 0, 0\) is not valid'),
        (True, 'stages=True is not valid'),
    ],
)
def test_invalid_stages_are_an_error_that_names_them(stages, words):
    with pytest.raises(InputError, match=words):
        build('ResNet', [dict(PLUGIN, stages=stages)], depth=18)


def test_a_family_without_a_known_place_asks_for_a_pattern():
    with pytest.raises(
        InputError, match='no place for attention is known in ChannelMapper; give after'
    ):
        build('ChannelMapper', [PLUGIN], in_channels=[8, 8], out_channels=8)


def test_the_printed_model_shows_attention_where_it_acts():
    component = build('ResNet', [dict(PLUGIN, stages=(True, False, False, False))], depth=18)
    assert repr(component.layer1[0].bn2).endswith('track_running_stats=True, then CBAM)')
    assert repr(component.layer2[0].bn2).endswith('track_running_stats=True)')
    copied = copy.deepcopy(component)
    assert repr(copied) == repr(component)
    assert copied.layer1[0].bn2.extra_repr.plugins is copied.inserted['layer1/0/bn2']


def test_attention_in_mmdet_s_own_plugins_starts_as_the_identity():
    """The features of a pretrained network do not change by a bit."""
    component = build('ResNet', [dict(PLUGIN, position='after_conv3')], depth=50, base_channels=16)
    plain = build('ResNet', None, depth=50, base_channels=16)
    component.init_weights()
    plain.load_state_dict(component.state_dict(), strict=False)
    component.eval()
    plain.eval()
    assert all(map(torch.equal, component(IMAGE), plain(IMAGE)))


def test_frozen_stages_have_no_attention_unless_stages_says_so():
    options = dict(depth=50, base_channels=8, frozen_stages=1)
    assert inserted(build('ResNet', [PLUGIN], **options))[0] == 'layer2/0/bn3'
    assert len(inserted(build('ResNet', [PLUGIN], **options))) == 13
    every = dict(PLUGIN, stages=(True, True, True, True))
    assert len(inserted(build('ResNet', [every], **options))) == 16
    assert len(inserted(build('ResNet', [dict(PLUGIN, after='layer*.*.bn3')], **options))) == 16
    assert len(places_left_out(build('ResNet', [PLUGIN], **options))) == 3
    assert not places_left_out(build('ResNet', [every], **options))
    frozen_norms = dict(options, frozen_stages=-1, norm_cfg=dict(type='BN', requires_grad=False))
    assert len(inserted(build('ResNet', [PLUGIN], **frozen_norms))) == 16
    frozen = dict(options, frozen_stages=4)  # all of it, to train the attention alone
    assert len(inserted(build('ResNet', [PLUGIN], **frozen))) == 16


@pytest.mark.parametrize(
    ('family', 'options', 'first'),
    [
        ('MobileNetV2', dict(frozen_stages=4), 'layer5/0/linear_conv'),
        ('CSPDarknet', dict(frozen_stages=1), 'stage2/1/blocks/0/conv2'),
        ('EfficientNet', dict(arch='b0', frozen_stages=3), 'layers/3/0/linear_conv'),
    ],
)
def test_stages_that_are_frozen_only_in_training_have_no_attention(family, options, first):
    assert inserted(build(family, [PLUGIN], **options))[0] == first
