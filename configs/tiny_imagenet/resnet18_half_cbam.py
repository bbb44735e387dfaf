# CBAM in every block, trained together with the network, with the paper's start.
_base_ = './resnet18_half.py'
plugins = [dict(cfg=dict(type='CBAM', start='paper'))]
model = dict(
    backbone=dict(type='WithPlugins', base_type='mmdet.ResNet', plugins=plugins),
)
