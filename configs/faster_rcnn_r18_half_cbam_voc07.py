# CBAM in every block, of the classifier that configs/tiny_imagenet/resnet18_half_cbam.py trains.
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
