# Squeeze-and-excitation in every block, trained together with the network.
_base_ = './resnet18_half_cbam.py'
attention = dict(type='CBAM', start='paper', pools=('avg',), order='channel')
plugins = [dict(cfg=attention)]
model = dict(backbone=dict(plugins=plugins))
