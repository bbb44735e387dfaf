# CBAM on each output of the neck, instead of in the backbone.
_base_ = './retinanet_mobilenetv2_bccd.py'
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM'))]
model = dict(neck=dict(type='WithPlugins', base_type='FPN', plugins=plugins))
