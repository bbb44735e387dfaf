"""Small components of every kind, with the places where tests insert CBAMs."""

from __future__ import annotations

from mmengine.registry import MODELS
from torch import nn

from cbam_det import CBAM

R18 = dict(type='ResNet', depth=18, base_channels=8)
BLOCKS = 'layer*.*.bn2'
FPN = dict(type='FPN', in_channels=[8, 16], out_channels=8, num_outs=3)
SSD_NECK = dict(
    type='SSDNeck',
    in_channels=(8, 16),
    out_channels=(8, 16, 8, 8, 8, 8),
    level_strides=(2, 2, 1, 1),
    level_paddings=(1, 1, 0, 0),
)
ROI_LAYER = dict(type='RoIAlign', output_size=7, sampling_ratio=0)
COMPONENTS = {
    'ResNet-18': (R18, BLOCKS, 8),
    'ResNeXt': (
        dict(type='ResNeXt', depth=50, groups=4, base_width=4, base_channels=8),
        'layer4.*.bn3',
        3,
    ),
    'ResNetV1d, a stage': (dict(type='ResNetV1d', depth=18, base_channels=8), 'layer3', 1),
    'Res2Net': (
        dict(type='Res2Net', depth=50, base_channels=8, scales=4, base_width=4),
        'layer1.*.bn3',
        3,
    ),
    'RegNet': (dict(type='RegNet', arch='regnetx_400mf'), 'layer2.*.bn3', 2),
    'VGG16 of SSD': (
        dict(
            type='SSDVGG',
            depth=16,
            with_last_pool=False,
            ceil_mode=True,
            out_indices=(3, 4),
            out_feature_indices=(22, 34),
        ),
        ['features.22', 'features.34'],
        2,
    ),
    'MobileNetV2': (dict(type='MobileNetV2', out_indices=(2,)), 'layer[34].*', 7),
    'FPN': (FPN, 'fpn_convs.*', 2),
    'PAFPN': (dict(FPN, type='PAFPN'), 'pafpn_convs.*', 1),
    'RetinaNet head': (
        dict(type='RetinaHead', num_classes=3, in_channels=8, feat_channels=8),
        'cls_convs.3',
        1,
    ),
    'RPN': (dict(type='RPNHead', in_channels=8, feat_channels=8), 'rpn_conv', 1),
    'SSDNeck': (SSD_NECK, ['l2_norm', 'extra_layers.*'], 5),
    'StairNet': (dict(SSD_NECK, type='StairNet', stair_channels=8), 'out_convs.*', 6),
    'MobileNetV1': (dict(type='MobileNetV1'), 'layer*.*.pointwise_conv', 13),
    'HRNet': (
        dict(
            type='HRNet',
            extra={
                f'stage{stage}': dict(
                    num_modules=1,
                    num_branches=stage,
                    block='BOTTLENECK' if stage == 1 else 'BASIC',
                    num_blocks=(1,) * stage,
                    num_channels=tuple(8 * 2**branch for branch in range(stage)),
                )
                for stage in (1, 2, 3, 4)
            },
        ),
        'stage*.*.branches.*.*.bn2',
        9,
    ),
    'ResNeSt': (
        dict(type='ResNeSt', depth=50, base_channels=8, stem_channels=8),
        'layer3.*.bn3',
        6,
    ),
    'RoIAlign': (
        dict(type='SingleRoIExtractor', roi_layer=ROI_LAYER, out_channels=8, featmap_strides=[4]),
        '.',
        1,
    ),
}


def with_cbam(component: dict, after: object, **options) -> nn.Module:
    """Build the component with a CBAM of these options after each of these modules."""
    plugins = [dict(cfg=dict(type='CBAM', ratio=2, **options), after=after)]
    base = {key: value for key, value in component.items() if key != 'type'}
    return MODELS.build(
        dict(type='WithPlugins', base_type=component['type'], plugins=plugins, **base)
    )


def randomise(component: nn.Module) -> nn.Module:
    """Let the gates differ from 1/2, so that a gate that does not run changes the output."""
    for module in component.modules():
        if isinstance(module, CBAM):
            nn.init.constant_(module.spatial_gate.norm.weight, 1.5)
    component.eval()  # mmdet's ResNet returns None
    return component
