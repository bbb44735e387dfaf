_base_ = ['./ssd300_vgg16_voc.py', './_base_/attention/cbam.py']
model = dict(
    backbone=dict(type='WithPlugins', base_type='SSDVGG', plugins=_base_.plugins),
    neck=dict(type='WithPlugins', base_type='SSDNeck', plugins=_base_.plugins),
)
