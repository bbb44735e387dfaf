# CBAM after each stage, because RTMDet's blocks already end with an attention.
_base_ = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM'), after='stage*')]
model = dict(backbone=dict(type='WithPlugins', base_type='CSPNeXt', plugins=plugins))
