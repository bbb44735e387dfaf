_base_ = ['./ssd300_vgg16.py', './_base_/attention/se_ssd.py']
model = dict(
    backbone=dict(type='WithPlugins', base_type='SSDVGG', plugins=_base_.backbone_plugins),
    neck=dict(type='WithPlugins', base_type='SSDNeck', plugins=_base_.neck_plugins),
)
