# Squeeze-and-excitation in every block; starts from the classifier of
# configs/tiny_imagenet/resnet18_half_se.py.
_base_ = './faster_rcnn_r18_half_voc07.py'
attention = dict(type='CBAM', start='paper', pools=('avg',), order='channel')
model = dict(
    backbone=dict(
        type='WithPlugins',
        base_type='ResNet',
        plugins=[dict(cfg=attention)],
        init_cfg=dict(checkpoint='work_dirs/resnet18_half_se/epoch_14.pth'),
    )
)
