# Trained from scratch with the identity start, as in all records of the digits; the study
# `ablations` shows no difference to the paper's start.
_base_ = ['./faster_rcnn_r50_digits.py', './_base_/attention/cbam.py']
model = dict(backbone=dict(type='WithPlugins', base_type='ResNet', plugins=_base_.plugins))
