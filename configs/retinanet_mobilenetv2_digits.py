# The digits with a pretrained backbone and, as for BCCD, half the learning rate.
_base_ = [
    './_base_/models/retinanet_mobilenetv2.py',
    './_base_/datasets/digits.py',
    './_base_/schedules/digits.py',
    'mmdet::_base_/default_runtime.py',
]
model = dict(bbox_head=dict(num_classes=10, anchor_generator=dict(octave_base_scale=2)))
optim_wrapper = dict(optimizer=dict(lr=5e-4))
