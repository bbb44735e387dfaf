"""timm's attentions at the places of ours."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from timm.layers import create_attn
from torch import nn

from cbam_det import TimmAttention
from cbam_det.models.plugins import TIMM_ATTENTIONS
from cbam_det.utils.errors import InputError

# What timm builds of no more than its name and the channels.
PLAIN = [name for name in TIMM_ATTENTIONS if name not in ('ge', 'bottleneck', 'halo', 'bat')]


def host(kind: str, name: str, **options: object) -> nn.Module:
    plugins = [dict(cfg=dict(type='TimmAttention', name=name))]
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(dict(type='WithPlugins', base_type=kind, plugins=plugins, **options))


@pytest.mark.parametrize('name', PLAIN)
def test_each_attention_is_timm_s_own_and_trains_in_every_block_of_a_resnet(name):
    torch.manual_seed(0)
    net = host('ResNet', name, depth=18, base_channels=16)
    found = [one for one in net.inserted.modules() if isinstance(one, TimmAttention)]
    own = create_attn(name, 16)
    assert len(found) == 8 and type(found[0].attention) is type(own)
    shapes = [one.shape for one in found[0].parameters()]
    assert shapes == [one.shape for one in own.parameters()]
    sum(level.square().mean() for level in net(torch.randn(2, 3, 64, 64))).backward()
    used = [one for one in found[0].parameters() if one.grad is not None]
    assert used and all(torch.isfinite(one.grad).all() for one in used)


def test_the_plugin_is_what_timm_computes():
    torch.manual_seed(0)
    ours = TimmAttention(16, 'eca')
    x = torch.randn(2, 16, 5, 6)
    assert torch.equal(ours(x), ours.attention(x))
    weights = torch.sigmoid(ours.attention.conv(x.mean((2, 3))[:, None]))[:, 0, :, None, None]
    torch.testing.assert_close(ours(x), x * weights)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(name='ecaa'), "no attention 'ecaa' for 64 channels .*near: eca"),
        (dict(name='bottleneck'), "no attention 'bottleneck' for 64 channels"),
        (dict(name='eca', kernl=3), "no attention 'eca' .*kernl"),
        (dict(name=3), 'name=3 of TimmAttention is no name'),
    ],
)
def test_what_timm_refuses_is_named(options, words):
    with pytest.raises(InputError, match=words):
        TimmAttention(64, **options)
