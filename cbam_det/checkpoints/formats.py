"""The names of CBAM's weights in other implementations, and the factors of the starts.

A format is a table of names; `implementations.py` converts by it.

    authors    Jongchan/attention-module, MODELS/cbam.py and model_resnet.py
    pytorchcv  pytorchcv 0.0.74, models/cbamresnet.py
    timm       timm 1.0.31, layers/cbam.py: create_model(..., block_args=dict(attn_layer='cbam'))
    mmyolo     mmyolo's models/plugins/cbam.py, in a ResNet by mmdet's plugins=
    tutorial   luuuyi/CBAM.PyTorch, model/resnet_cbam.py, in both versions
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OURS = 'cbam_det'
STARTS = ('paper', 'identity')
LAYOUTS = ('inserted', 'plugins')

NORM = ('weight', 'bias', 'running_mean', 'running_var')
# The placeholders of templates: stage, block from 0 or from 1, layer, names of the weights.
TOKENS = {
    's': '[1-4]',
    'b': r'\d+',
    'b1': r'\d+',
    'i': '[123]',
    'p': 'weight|bias',
    'n': '|'.join((*NORM, 'num_batches_tracked')),
}
# The other weights of a ResNet.
TRUNK = (
    'conv1.weight',
    'bn1.{n}',
    'layer{s}.{b}.conv{i}.weight',
    'layer{s}.{b}.bn{i}.{n}',
    'layer{s}.{b}.downsample.0.weight',
    'layer{s}.{b}.downsample.1.{n}',
    'fc.{p}',
)
FC1, FC2, CONV = 'channel_gate.fc1.', 'channel_gate.fc2.', 'spatial_gate.conv.'
BATCH_NORM = 'spatial_gate.norm.{n}'
GATE = re.compile(r'(?P<root>(?:.*\.)?)(?P<gate>(?:channel_gate|spatial_gate)\..+)')
# Factors from the identity start to the paper start: of fc1, of the spatial gate's first layer, of
# the norm before the module. See docs/how_it_works/identity.md.
FACTORS = {
    'channel-spatial': (1 / 4, 1 / 2, 4),
    'spatial-channel': (1 / 2, 1 / 4, 4),
    'parallel': (1 / 4, 1 / 4, 4),
    'channel': (1 / 2, 1, 2),
    'spatial': (1, 1 / 2, 2),
}
ASSUMED_POOLS = (
    "assumed, because weights do not determine it: pool_types=['avg', 'max'], the authors' "
    "default; if the authors' module had others, set the same in the config, such as pools=('avg', "
    "'max', 'lp')"
)
DEFAULTS: dict[str, Any] = {  # of the module's options that a conversion determines
    'ratio': 16,
    'pools': ('avg', 'max'),
    'order': 'channel-spatial',
    'kernel_size': 7,
    'spatial_pools': ('max', 'avg'),
    'mlp_bias': True,
    'conv_bias': False,
    'start': 'identity',
    'norm_cfg': dict(type='BN', momentum=0.01),
}


def pools_of(options: Mapping, option: str) -> tuple[str, ...]:
    """The value of `pools` or `spatial_pools` in a CBAM's options, or its default."""
    pools = options.get(option, DEFAULTS[option])
    return (pools,) if isinstance(pools, str) else tuple(pools)


@dataclass(frozen=True)
class Format:
    """The names of CBAM's weights in another implementation.

    Attributes:
        block: the prefix of the CBAM in a block of a ResNet.
        module: pairs of our name and its name; our name occurs twice if its versions differ.
        trunk: its names for `TRUNK`.
        pools: the input maps of its spatial convolution, in order.
        options: it has the options `no_spatial` and `pool_types`.
        norm_cfg: the norm of its spatial gate.
    """

    block: str
    module: tuple[tuple[str, str], ...]
    trunk: tuple[str, ...] = TRUNK
    pools: tuple[str, str] = ('avg', 'max')
    options: bool = False
    norm_cfg: dict | None = field(default_factory=lambda: dict(type='BN'))


UNIT = 'features.stage{s}.unit{b1}.'
FORMATS = {
    'authors': Format(
        'layer{s}.{b}.cbam.',
        (
            (FC1 + '{p}', 'ChannelGate.mlp.1.{p}'),
            (FC2 + '{p}', 'ChannelGate.mlp.3.{p}'),
            (CONV + 'weight', 'SpatialGate.spatial.conv.weight'),
            (BATCH_NORM, 'SpatialGate.spatial.bn.{n}'),
        ),
        pools=('max', 'avg'),
        options=True,
        norm_cfg=DEFAULTS['norm_cfg'],
    ),
    'pytorchcv': Format(
        UNIT + 'cbam.',
        (
            (FC1 + '{p}', 'ch_gate.mlp.fc1.{p}'),
            (FC2 + '{p}', 'ch_gate.mlp.fc2.{p}'),
            (CONV + 'weight', 'sp_gate.conv.conv.weight'),
            (BATCH_NORM, 'sp_gate.conv.bn.{n}'),
        ),
        (
            'features.init_block.conv.conv.weight',
            'features.init_block.conv.bn.{n}',
            UNIT + 'body.conv{i}.conv.weight',
            UNIT + 'body.conv{i}.bn.{n}',
            UNIT + 'identity_conv.conv.weight',
            UNIT + 'identity_conv.bn.{n}',
            'output.{p}',
        ),
        pools=('max', 'avg'),
    ),
    'timm': Format(
        'layer{s}.{b}.se.',
        (
            (FC1 + 'weight', 'channel.fc1.weight'),
            (FC2 + 'weight', 'channel.fc2.weight'),
            (CONV + 'weight', 'spatial.conv.conv.weight'),
            (BATCH_NORM, 'spatial.conv.bn.{n}'),
        ),
    ),
    'mmyolo': Format(
        'layer{s}.{b}.cbam.',
        (
            (FC1 + '{p}', 'channel_attention.fc.0.conv.{p}'),
            (FC2 + '{p}', 'channel_attention.fc.1.conv.{p}'),
            (CONV + '{p}', 'spatial_attention.conv.conv.{p}'),
        ),
        norm_cfg=None,
    ),
    'tutorial': Format(
        'layer{s}.{b}.',
        (
            (FC1 + 'weight', 'ca.fc1.weight'),
            (FC2 + 'weight', 'ca.fc2.weight'),
            (FC1 + 'weight', 'ca.fc.0.weight'),
            (FC2 + 'weight', 'ca.fc.2.weight'),
            (CONV + 'weight', 'sa.conv1.weight'),
        ),
        norm_cfg=None,
    ),
}
