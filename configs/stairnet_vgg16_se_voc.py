_base_ = './stairnet_vgg16_voc.py'
plugins = [dict(cfg=dict(type='CBAM', pools=('avg',), order='channel'))]
model = dict(neck=dict(type='WithPlugins', base_type='StairNet', plugins=plugins))
