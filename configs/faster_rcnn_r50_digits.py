# As faster_rcnn_r50.py, but for minutes on a CPU: a quarter of the width (ResNet's base_channels 16
# for 64, FPN 64 for 256), BatchNorm trained from scratch in backbone and neck, nothing frozen, no
# ImageNet weights, fewer proposals, 192-pixel images, AdamW with a cosine for SGD with steps.
_base_ = [
    './_base_/models/faster_rcnn_r50_quarter.py',
    './_base_/datasets/digits.py',
    './_base_/schedules/digits.py',
    'mmdet::_base_/default_runtime.py',
]
