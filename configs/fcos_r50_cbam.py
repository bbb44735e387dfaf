_base_ = ['mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', './_base_/attention/cbam.py']
model = dict(backbone=dict(type='WithPlugins', base_type='ResNet', plugins=_base_.plugins))
