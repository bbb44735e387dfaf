_base_ = './resnet50_cbam.py'
plugins = [dict(cfg=dict(type='CBAM', start='identity'), after='layer*.*.bn2')]
model = dict(backbone=dict(depth=18, plugins=plugins), head=dict(in_channels=512))
