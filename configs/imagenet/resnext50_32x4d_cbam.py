_base_ = './resnet50_cbam.py'
model = dict(backbone=dict(base_type='mmdet.ResNeXt', depth=50, groups=32, base_width=4))
