_base_ = './stairnet_mobilenetv2_voc07.py'
plugins = [dict(cfg=dict(type='CBAM', pools=('avg',), order='channel'))]
model = dict(neck=dict(type='WithPlugins', base_type='StairNet', plugins=plugins))
