"""Where the paper inserts attention, for each family of backbones and necks.

The paper inserts it at the end of each residual branch, before the addition (figure 3); in
MobileNet after every convolution (table 5); in one-stage detectors right before the predictors
(section 5.4). The places in other families follow these rules.

Frozen stages (`frozen_stages=1` in most of mmdet's detectors) are left out. Freezing keeps a
stage's features as they were pretrained, and new attention would change them. The paper's detectors
freeze the attention of a frozen stage with it; where it starts as the identity, frozen attention is
none. It would also be costly, since autograd would have to keep the stage's activations for it.
`stages=(True, True, True, True)` inserts it in every stage, for example for weights that have it
there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from ..utils.errors import InputError
from ..utils.installation import tool_command

# Class -> patterns of module names. Of a tuple only the first pattern that matches is used. `?n3`
# matches bn3 and gn3.
RESIDUAL = ('layer*.*.?n3', 'layer*.*.?n2')  # bottlenecks, or basic blocks
PATTERNS: dict[str, list[str | tuple[str, ...]]] = {
    'ResNet': [RESIDUAL],
    'ResLayer': [RESIDUAL],
    'RegNet': [RESIDUAL],
    'HRNet': ['layer1.*.?n3', 'stage*.*.branches.*.*.?n2'],
    'HourglassNet': ['**.?n2'],
    # Not at stride 4, whose layers detectors freeze.
    'MobileNetV2': ['layer[3-7].*.linear_conv'],
    'MobileNetV1': ['layer*.*.depthwise_conv', 'layer*.*.pointwise_conv'],
    'EfficientNet': ['layers.*.*.linear_conv'],
    'Darknet': ['conv_res_block*.res*.conv2'],
    'CSPDarknet': ['stage*.*.blocks.*.conv2'],
    'CSPNeXt': ['stage*.*.blocks.*.conv2'],
    'PyramidVisionTransformer': ['layers.*.1.*.ffn.layers'],
    # Its blocks have tokens (N, L, C); the inputs of the stages are feature maps.
    'SwinTransformer': ['patch_embed.projection', 'stages.*.downsample.adap_padding'],
    # The inputs of SSD's predictors; l2_norm in the neck makes the first of them.
    'SSDVGG': ['features.34'],
    'SSDNeck': ['l2_norm', 'extra_layers.*'],
    'StairNet': ['out_convs.*'],
    'FPN': ['fpn_convs.*'],
}
STAGE = re.compile(r'(?:res_)?(?:layer|stage|conv_res_block)\d+')


def family_of(kind: type) -> str | None:
    """The key of `PATTERNS` for a class: the name of the class or of one of its base classes."""
    return next((base.__name__ for base in kind.__mro__ if base.__name__ in PATTERNS), None)


def patterns_of(component: nn.Module) -> list[str | tuple[str, ...]]:
    """The patterns of a component's family.

    Raises:
        InputError: no places are known for it.
    """
    if family := family_of(type(component)):
        return PATTERNS[family]
    raise InputError(
        f'no place for attention is known in {type(component).__name__}; give after, a pattern of '
        f'module names ({tool_command("places", "CONFIG")} lists them)'
    )


def outside_frozen(component: nn.Module, names: Sequence[str]) -> list[str]:
    """Those of the modules `names` that are in no frozen part of the component; if it is frozen as
    a whole, all of them.

    Most families of mmdet freeze their stages only in `train()`, so this freezes them before.
    """
    freeze = getattr(component, '_freeze_stages', None)
    if callable(freeze):
        freeze()
    trained = [name for name in names if not in_frozen_part(component, name)]
    return trained or list(names)


def in_frozen_part(component: nn.Module, name: str) -> bool:
    """Whether a module that contains the module `name` has parameters, but none that trains.

    Neither the module itself counts (norms are often frozen alone) nor the component.
    """
    *parents, _ = name.split('.')
    part = component
    for parent in parents:
        part = part.get_submodule(parent)
        trains = [parameter.requires_grad for parameter in part.parameters()]
        if trains and not any(trains):
            return True
    return False


def stages_of(component: nn.Module) -> list[str]:
    """The names of the stages of a component, in its order."""
    return [name for name, _ in component.named_children() if STAGE.fullmatch(name)]


def also_in_frozen(component: nn.Module) -> dict[str, object]:
    """The option of an entry of `plugins` that inserts attention in frozen stages too."""
    if stages := stages_of(component):
        return dict(stages=(True,) * len(stages))
    return dict(after=patterns_of(component))


def in_stages(component: nn.Module, names: Sequence[str], stages: Sequence[bool]) -> list[str]:
    """Those of the modules `names` whose stage is True in `stages`, as in mmdet.

    Raises:
        InputError: the component has no stages or a different number of them.
    """
    component_stages = stages_of(component)
    if len(component_stages) != len(stages):
        raise InputError(
            f'stages={tuple(stages)} has {len(stages)} values; {type(component).__name__} has '
            f'{len(component_stages)} stages'
            + (f' ({", ".join(component_stages)})' if component_stages else '; give after instead')
        )
    chosen = {stage for stage, is_chosen in zip(component_stages, stages, strict=True) if is_chosen}
    return [name for name in names if name.split('.')[0] in chosen]
