_base_ = './faster_rcnn_r50.py'
weights = dict(type='Pretrained', checkpoint='torchvision://resnet18')
model = dict(backbone=dict(depth=18, init_cfg=weights), neck=dict(in_channels=[64, 128, 256, 512]))
