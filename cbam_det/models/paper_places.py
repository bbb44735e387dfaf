"""Where the paper has its attention, in each family of backbones, necks and heads.

In a network with residual branches it is at the end of each, before the addition (figure 3); in
MobileNet after every convolution (table 5); in one-stage detectors right before the predictors
(section 5.4). Families that the paper does not have are treated likewise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from ..utils.errors import InputError

# Class -> patterns of module names, all of which count; a tuple is a choice, whose first that a
# host has counts. `?n3` is bn3 as well as gn3.
RESIDUAL = ('layer*.*.?n3', 'layer*.*.?n2')  # bottlenecks, or basic blocks
PATTERNS: dict[str, list[str | tuple[str, ...]]] = {
    'ResNet': [RESIDUAL],
    'ResLayer': [RESIDUAL],
    'RegNet': [RESIDUAL],
    'HRNet': ['layer1.*.?n3', 'stage*.*.branches.*.*.?n2'],
    'HourglassNet': ['**.?n2'],
    # Stride 4 is left out: detectors freeze it.
    'MobileNetV2': ['layer[3-7].*.linear_conv'],
    'MobileNetV1': ['layer*.*.depthwise_conv', 'layer*.*.pointwise_conv'],
    'EfficientNet': ['layers.*.*.linear_conv'],
    'Darknet': ['conv_res_block*.res*.conv2'],
    'CSPDarknet': ['stage*.*.blocks.*.conv2'],
    'CSPNeXt': ['stage*.*.blocks.*.conv2'],
    'PyramidVisionTransformer': ['layers.*.1.*.ffn.layers'],
    # Its blocks have tokens (N, L, C). Maps are what enters a stage.
    'SwinTransformer': ['patch_embed.projection', 'stages.*.downsample.adap_padding'],
    # The maps that SSD's predictors read: its neck has the first of them, by l2_norm.
    'SSDVGG': ['features.34'],
    'SSDNeck': ['l2_norm', 'extra_layers.*'],
    'StairNet': ['out_convs.*'],
    'FPN': ['fpn_convs.*'],
}
STAGE = re.compile(r'(?:res_)?(?:layer|stage|conv_res_block)\d+')


def family_of(kind: type) -> str | None:
    """The key of `PATTERNS` for a class: its own name, or that of a class that it derives from."""
    return next((base.__name__ for base in kind.__mro__ if base.__name__ in PATTERNS), None)


def patterns_of(host: nn.Module) -> list[str | tuple[str, ...]]:
    """The patterns of a host's family.

    Raises:
        InputError: no place is known for it.
    """
    if family := family_of(type(host)):
        return PATTERNS[family]
    raise InputError(
        f'the paper has no place for attention in {type(host).__name__}; give after, a pattern of '
        'module names (tools/places.py lists them)'
    )


def in_stages(host: nn.Module, names: Sequence[str], stages: Sequence[bool]) -> list[str]:
    """Of the modules `names` those in the stages that are True, as in mmdet's `stages`.

    Raises:
        InputError: the host has no stages, or another number of them.
    """
    host_stages = [name for name, _ in host.named_children() if STAGE.fullmatch(name)]
    if len(host_stages) != len(stages):
        raise InputError(
            f'stages={tuple(stages)} has {len(stages)} values; {type(host).__name__} has '
            f'{len(host_stages)} stages'
            + (f' ({", ".join(host_stages)})' if host_stages else ', so give after')
        )
    chosen = {stage for stage, is_chosen in zip(host_stages, stages, strict=True) if is_chosen}
    return [name for name in names if name.split('.')[0] in chosen]
