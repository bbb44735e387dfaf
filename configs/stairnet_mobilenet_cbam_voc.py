_base_ = './stairnet_mobilenet_voc.py'
plugins = [dict(cfg=dict(type='CBAM'))]
model = dict(neck=dict(type='WithPlugins', base_type='StairNet', plugins=plugins))
