# ResNet-18 at a quarter of the width, from scratch: runs of minutes, for the ablations.
_base_ = './faster_rcnn_r50_digits.py'
model = dict(backbone=dict(depth=18), neck=dict(in_channels=[16, 32, 64, 128]))
