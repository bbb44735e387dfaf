# ResNet-18 at quarter width from scratch, which trains in minutes, for the ablations.
_base_ = './faster_rcnn_r50_digits.py'
model = dict(backbone=dict(depth=18), neck=dict(in_channels=[16, 32, 64, 128]))
