_base_ = './resnet50_cbam.py'
model = dict(backbone=dict(base_type='mmdet.ResNeXt', depth=101, groups=32, base_width=4))
