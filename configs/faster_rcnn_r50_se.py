_base_ = ['./faster_rcnn_r50.py', './_base_/attention/se.py']
model = dict(backbone=dict(type='WithPlugins', base_type='ResNet', plugins=_base_.plugins))
