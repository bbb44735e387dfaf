# faster_rcnn_r50.py made small enough to train in minutes on a CPU: quarter width (base_channels 16
# instead of 64, FPN 64 instead of 256), no ImageNet weights, no frozen stages, BatchNorm trained in
# backbone and neck, fewer proposals, 192-pixel images, AdamW with cosine annealing.
_base_ = [
    './_base_/models/faster_rcnn_r50_quarter.py',
    './_base_/datasets/digits.py',
    './_base_/schedules/digits.py',
    'mmdet::_base_/default_runtime.py',
]
