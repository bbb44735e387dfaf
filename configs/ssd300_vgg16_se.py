_base_ = ['./ssd300_vgg16.py', './_base_/attention/se.py']
model = dict(
    backbone=dict(type='WithPlugins', base_type='SSDVGG', plugins=_base_.plugins),
    neck=dict(type='WithPlugins', base_type='SSDNeck', plugins=_base_.plugins),
)
