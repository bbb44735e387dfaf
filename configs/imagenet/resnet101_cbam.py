_base_ = './resnet50_cbam.py'
model = dict(backbone=dict(depth=101))
