"""How other implementations name and shape the weights of a CBAM, and what each start is.

A form is a table of names with the shapes that go with them; `implementations.py` goes by it.

    authors    Jongchan/attention-module, MODELS/cbam.py and model_resnet.py
    pytorchcv  pytorchcv 0.0.74, models/cbamresnet.py
    timm       timm 1.0.31, layers/cbam.py: create_model(..., block_args=dict(attn_layer='cbam'))
    mmyolo     mmyolo's models/plugins/cbam.py, in a ResNet as mmdet's plugins= names it
    tutorial   luuuyi/CBAM.PyTorch, model/resnet_cbam.py, both of its versions
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
# What stands for what in a template: stage, block from 0 or from 1, layer, names of the weights.
TOKENS = {
    's': '[1-4]',
    'b': r'\d+',
    'b1': r'\d+',
    'i': '[123]',
    'p': 'weight|bias',
    'n': '|'.join((*NORM, 'num_batches_tracked')),
}
# What a ResNet has beside its CBAMs.
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
# From the identity's form to the paper's: fc1, what reads the map in the spatial gate, the norm
# before the module. See docs/how_it_works/identity.md.
FACTORS = {
    'channel-spatial': (1 / 4, 1 / 2, 4),
    'spatial-channel': (1 / 2, 1 / 4, 4),
    'parallel': (1 / 4, 1 / 4, 4),
    'channel': (1 / 2, 1, 2),
    'spatial': (1, 1 / 2, 2),
}
# What weights do not show, in our words and in those of the authors' code.
ASSUMED = (
    'taken for granted, as weights do not show it: order channel-spatial of two gates, pools avg '
    'and max, not lp or lse, spatial_pools max and avg, ReLU; give the config to have it checked'
)
ASSUMED_POOLS = (
    "taken for granted, as weights do not show it: pool_types=['avg', 'max'], the authors' "
    "default; where theirs has lp or lse too, give the config the same pools=('avg', 'max', 'lp')"
)
DEFAULTS: dict[str, Any] = {  # of the module's options that are worked out here
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
    """`pools` or `spatial_pools` among a CBAM's options, the default where it is left out."""
    pools = options.get(option, DEFAULTS[option])
    return (pools,) if isinstance(pools, str) else tuple(pools)


@dataclass(frozen=True)
class Form:
    """How another implementation names and shapes a CBAM.

    Attributes:
        block: where the CBAM of a ResNet's block stands.
        module: pairs of our name and its name in the module; it is written by the first.
        trunk: its names of `TRUNK`.
        convs: the MLP has 1x1 convolutions, (C, C/r, 1, 1), not linear layers, (C, C/r).
        pools: what its spatial convolution reads, in order.
        channel_pools: of its channel gate; where `options` is True, any of them can be chosen.
        options: its gates and pools are options, `no_spatial` and `pool_types`.
        kernel_size: of the spatial gate, where no other can be chosen.
        norm_cfg: the norm of its spatial gate.
        wrap: what comes before every key of a network that is written.
    """

    block: str
    module: tuple[tuple[str, str], ...]
    trunk: tuple[str, ...] = TRUNK
    convs: bool = True
    pools: tuple[str, str] = ('avg', 'max')
    channel_pools: tuple[str, ...] = ('avg', 'max')
    options: bool = False
    kernel_size: int | None = None
    norm_cfg: dict | None = field(default_factory=lambda: dict(type='BN'))
    wrap: str = ''


UNIT = 'features.stage{s}.unit{b1}.'
FORMS = {
    'authors': Form(
        'layer{s}.{b}.cbam.',
        (
            (FC1 + '{p}', 'ChannelGate.mlp.1.{p}'),
            (FC2 + '{p}', 'ChannelGate.mlp.3.{p}'),
            (CONV + 'weight', 'SpatialGate.spatial.conv.weight'),
            (BATCH_NORM, 'SpatialGate.spatial.bn.{n}'),
        ),
        convs=False,
        pools=('max', 'avg'),
        channel_pools=('avg', 'max', 'lp', 'lse'),
        options=True,
        kernel_size=7,
        norm_cfg=DEFAULTS['norm_cfg'],
        wrap='module.',
    ),
    'pytorchcv': Form(
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
        convs=False,
        pools=('max', 'avg'),
    ),
    'timm': Form(
        'layer{s}.{b}.se.',
        (
            (FC1 + 'weight', 'channel.fc1.weight'),
            (FC2 + 'weight', 'channel.fc2.weight'),
            (CONV + 'weight', 'spatial.conv.conv.weight'),
            (BATCH_NORM, 'spatial.conv.bn.{n}'),
        ),
    ),
    'mmyolo': Form(
        'layer{s}.{b}.cbam.',
        (
            (FC1 + '{p}', 'channel_attention.fc.0.conv.{p}'),
            (FC2 + '{p}', 'channel_attention.fc.1.conv.{p}'),
            (CONV + '{p}', 'spatial_attention.conv.conv.{p}'),
        ),
        norm_cfg=None,
    ),
    'tutorial': Form(
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
# The forms that are written, not only read: what is trained here goes on in projects that hold a
# copy of the authors' cbam.py, in timm's networks and in mmyolo's detectors.
TARGETS = (OURS, 'authors', 'timm', 'mmyolo')
