_base_ = ['mmdet::faster_rcnn/faster-rcnn_x101-32x4d_fpn_1x_coco.py', './_base_/attention/cbam.py']
model = dict(backbone=dict(type='WithPlugins', base_type='ResNeXt', plugins=_base_.plugins))
