# CBAM on each of the neck's outputs in place of the backbone.
_base_ = './retinanet_mobilenetv2_bccd.py'
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM'))]
model = dict(neck=dict(type='WithPlugins', base_type='FPN', plugins=plugins))
