# Table 7: SSD with MobileNetV1; extra layers and anchor sizes are those of MobileNet-SSD.
_base_ = './ssd300_vgg16_voc.py'
custom_imports = dict(imports=['cbam_det'])
channels = (512, 1024, 512, 256, 256, 128)
norm_cfg = dict(type='BN')
model = dict(
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
    backbone=dict(
        _delete_=True,
        type='MobileNetV1',
        out_indices=(3, 4),
        init_cfg=dict(type='Pretrained', checkpoint='timm://mobilenetv1_100'),
    ),
    neck=dict(
        out_channels=channels,
        level_strides=(2, 2, 2, 2),
        level_paddings=(1, 1, 1, 1),
        l2_norm_scale=None,
        norm_cfg=norm_cfg,
    ),
    bbox_head=dict(
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
