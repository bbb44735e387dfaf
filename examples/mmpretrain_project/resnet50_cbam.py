# mmpretrain's ResNet has no `plugins=` of its own. This is the network of the paper's table 4,
# trained from the beginning, and so from the authors' start.
_base_ = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM', start='paper'))]
model = dict(backbone=dict(type='WithPlugins', base_type='ResNet', plugins=plugins))
