# CBAM in every block; starts from the classifier of configs/tiny_imagenet/resnet18_half_cbam.py.
_base_ = './faster_rcnn_r18_half_voc07.py'
plugins = [dict(cfg=dict(type='CBAM', start='paper'))]
model = dict(
    backbone=dict(
        type='WithPlugins',
        base_type='ResNet',
        plugins=plugins,
        init_cfg=dict(checkpoint='work_dirs/resnet18_half_cbam/epoch_14.pth'),
    )
)
