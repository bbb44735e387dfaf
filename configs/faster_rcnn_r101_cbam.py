_base_ = ['mmdet::faster_rcnn/faster-rcnn_r101_fpn_1x_coco.py', './_base_/attention/cbam.py']
model = dict(backbone=dict(type='WithPlugins', base_type='ResNet', plugins=_base_.plugins))
