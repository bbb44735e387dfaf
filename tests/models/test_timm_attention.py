"""timm's attention modules as plugins."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from timm.layers import create_attn
from torch import nn

from cbam_det import TimmAttention
from cbam_det.models.plugins import TIMM_ATTENTIONS
from cbam_det.utils.errors import InputError

# Those that timm builds from only the name and the channels.
PLAIN = [name for name in TIMM_ATTENTIONS if name not in ('ge', 'bottleneck', 'halo', 'bat')]


def with_attention(kind: str, name: str, **options: object) -> nn.Module:
    plugins = [dict(cfg=dict(type='TimmAttention', name=name))]
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(dict(type='WithPlugins', base_type=kind, plugins=plugins, **options))


@pytest.mark.parametrize('name', PLAIN)
def test_each_attention_is_timm_s_own_and_trains_in_every_block_of_a_resnet(name):
    torch.manual_seed(0)
    net = with_attention('ResNet', name, depth=18, base_channels=16)
    plugins = [module for module in net.inserted.modules() if isinstance(module, TimmAttention)]
    timm_s = create_attn(name, 16)
    assert len(plugins) == 8 and type(plugins[0].attention) is type(timm_s)
    shapes = [parameter.shape for parameter in plugins[0].parameters()]
    assert shapes == [parameter.shape for parameter in timm_s.parameters()]
    sum(level.square().mean() for level in net(torch.randn(2, 3, 64, 64))).backward()
    gradients = [parameter.grad for parameter in plugins[0].parameters()]
    gradients = [gradient for gradient in gradients if gradient is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)


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
        (
            dict(name='ecaa'),
            "cannot build the attention 'ecaa' for 64 channels .*did you mean 'eca'",
        ),
        (dict(name='bottleneck'), "cannot build the attention 'bottleneck' for 64 channels"),
        (dict(name='eca', kernl=3), "cannot build the attention 'eca' .*kernl"),
        (dict(name=3), 'name=3 of TimmAttention is not a text'),
    ],
)
def test_what_timm_rejects_is_an_error_that_names_it(options, words):
    with pytest.raises(InputError, match=words):
        TimmAttention(64, **options)
