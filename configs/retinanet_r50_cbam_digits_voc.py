# Trained from scratch with the identity start, as in all records of the digits; the study
# `ablations` shows no difference to the paper's start.
_base_ = [
    './_base_/models/retinanet_r50_quarter.py',
    './_base_/datasets/digits_voc.py',
    './_base_/schedules/digits.py',
    'mmdet::_base_/default_runtime.py',
    './_base_/attention/cbam.py',
]
model = dict(backbone=dict(type='WithPlugins', base_type='ResNet', plugins=_base_.plugins))
