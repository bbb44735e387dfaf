# mmdet's own `plugins=` is for bottlenecks, and ResNet-18 has none.
_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
custom_imports = dict(imports=['cbam_det'])
runner_type = 'CheckedRunner'
plugins = [dict(cfg=dict(type='CBAM'))]
model = dict(backbone=dict(type='WithPlugins', base_type='ResNet', plugins=plugins))
