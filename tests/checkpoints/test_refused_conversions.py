"""Weights that cannot be converted are an error with the reason."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor

from cbam_det import CBAM
from cbam_det.checkpoints.convert import convert
from cbam_det.checkpoints.implementations import EVERY_STAGE
from cbam_det.utils.errors import InputError

from .starts import to_identity, to_paper


def without(state: dict[str, Tensor], *parts: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not any(part in key for part in parts)}


def changed(state: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {key.replace(old, new): value for key, value in state.items()}


def test_unknown_or_missing_weights_are_an_error(theirs):
    authors, timms = theirs('authors').state_dict(), theirs('timm').state_dict()
    ours = convert(authors).state
    extra = torch.ones(1)
    for message, state, options in (
        ('bam1.x: unknown in the format authors', {**authors, 'bam1.x': extra}, {}),
        ('no CBAM of any format', theirs('authors').fc.state_dict(), {}),
        ('several formats, authors, timm', authors | timms, {}),
        (
            rf'no CBAM in layer2\.0, but .*add {re.escape(EVERY_STAGE)}\)',
            without(authors, 'layer2.0.cbam'),
            {},
        ),
        (
            r'missing .*layer2\.0\.cbam\.channel_gate\.fc2\.bias',
            without(authors, '2.0.cbam.ChannelGate.mlp.3.bias'),
            {},
        ),
        (r'missing .*layer3\.1\.conv1\.weight', without(authors, 'layer3.1.conv1'), {}),
        (r'no CBAM in layer4\.0', without(timms, 'layer4'), {}),
        ('does not have 2 input maps', timm_light(), {}),
        ("format 'mine' is unknown", authors, dict(source='mine')),
        ('unknown in the format timm', authors, dict(source='timm')),
        ('nothing to convert', ours, dict(layout='inserted')),
        (
            'several keys become',
            {**ours, 'layer1.0.cbam.spatial_gate.conv.weight': extra},
            dict(layout='inserted'),
        ),
        ('BasicBlocks have no plugins=', ours, dict(layout='plugins')),
        ("layout 'mine' is unknown", ours, dict(layout='mine')),
        ('x: not a tensor', {**ours, 'x': 1}, {}),
        ('does not apply to the format authors', authors, dict(options=dict(order='channel'))),
    ):
        with pytest.raises(InputError, match=message):
            convert(state, **options)


def timm_light() -> dict[str, Tensor]:
    return timm.create_model('resnet18', block_args=dict(attn_layer='lcbam')).state_dict()


def test_a_start_that_cannot_be_converted_is_an_error_with_the_reason():
    def net(after: str = 'layer*.*.bn2', **options: object) -> dict[str, Tensor]:
        cfg = dict(type='WithPlugins', base_type='ResNet', depth=18, base_channels=16)
        entry = dict(cfg=dict(type='CBAM', start='identity', **options), after=after)
        with DefaultScope.overwrite_default_scope('mmdet'):
            return MODELS.build(dict(cfg, plugins=[entry])).state_dict()

    plain = net()
    half = {key: value.half() for key, value in plain.items()}
    half['layer1.0.bn2.weight'][0] = 6e4
    second = 'inserted.layer1/0/bn2.cbam1.channel_gate.fc1.weight'
    for message, state, options in (
        ("pool 'lse' in the channel gate", net(pools=['avg', 'lse']), dict(pools=['avg', 'lse'])),
        ("pool 'lse' in the spatial gate", net(spatial_pools='lse'), dict(spatial_pools='lse')),
        ('layer2 is not a norm with weight and bias', net('layer2'), {}),
        ('layer1.0.conv2 is not a norm', net('layer1.0.conv2'), {}),
        ('relu is not a norm', net('relu'), {}),
        ('give the weights of the whole network', CBAM(16).state_dict(), {}),
        ("a channel gate, which does not fit order='channel-spatial'", net(order='channel'), {}),
        ("order='none' is unknown", plain, dict(order='none')),
        ('has the paper start already', to_paper(plain, {}).state, {}),
        ('has 2 input maps, which does not fit', plain, dict(spatial_pools='conv')),
        ('unknown key beside', {**plain, second: torch.ones(1)}, {}),
        ('cannot be stored in torch.float16', half, {}),
    ):
        with pytest.raises(InputError, match=message):
            to_paper(state, options)
    with pytest.raises(InputError, match='has the identity start already'):
        to_identity(plain, {})


def test_a_cbam_at_another_position_of_a_block_is_detected_by_its_channels():
    cfg = dict(type='CBAM', start='paper')
    entry = dict(cfg=cfg, stages=(True,) * 4, position='after_conv2')
    with DefaultScope.overwrite_default_scope('mmdet'):
        net = MODELS.build(dict(type='ResNet', depth=50, base_channels=16, plugins=[entry]))
    for change in (dict(layout='inserted'), dict(start='identity')):
        with pytest.raises(InputError, match=r'16 channels, but layer1\.0\.bn3\.weight has 64'):
            convert(net.state_dict(), **change)
