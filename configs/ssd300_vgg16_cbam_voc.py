_base_ = ['./ssd300_vgg16_voc.py', './_base_/attention/cbam_ssd.py']
model = dict(
    backbone=dict(type='WithPlugins', base_type='SSDVGG', plugins=_base_.backbone_plugins),
    neck=dict(type='WithPlugins', base_type='SSDNeck', plugins=_base_.neck_plugins),
)
