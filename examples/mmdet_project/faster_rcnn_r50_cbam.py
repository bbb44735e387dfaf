_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['cbam_det'])
runner_type = 'CheckedRunner'
plugins = [dict(cfg=dict(type='CBAM'), position='after_conv3')]
model = dict(backbone=dict(plugins=plugins))
