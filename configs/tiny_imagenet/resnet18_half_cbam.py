# CBAM in every block, trained with the network from the beginning, from the authors' start.
_base_ = './resnet18_half.py'
plugins = [dict(cfg=dict(type='CBAM', start='paper'))]
model = dict(
    backbone=dict(type='WithPlugins', base_type='mmdet.ResNet', plugins=plugins),
)
