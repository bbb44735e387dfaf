_base_ = ['mmdet::pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py', './_base_/attention/cbam.py']
model = dict(backbone=dict(type='WithPlugins', base_type='ResNet', plugins=_base_.plugins))
