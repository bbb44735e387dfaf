_base_ = ['./faster_rcnn_r18.py', './_base_/attention/cbam.py']
model = dict(backbone=dict(type='WithPlugins', base_type='ResNet', plugins=_base_.plugins))
