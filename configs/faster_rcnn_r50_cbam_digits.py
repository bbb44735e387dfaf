_base_ = ['./faster_rcnn_r50_digits.py', './_base_/attention/cbam.py']
model = dict(backbone=dict(plugins=_base_.plugins))
