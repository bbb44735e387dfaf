# Squeeze-and-excitation on each of the feature maps that SSD's predictors read.
custom_imports = dict(imports=['cbam_det'])
attention = dict(type='CBAM', start='identity', pools=('avg',), order='channel')
backbone_plugins = [dict(cfg=attention, after='features.34')]
neck_plugins = [dict(cfg=attention, after=['l2_norm', 'extra_layers.*'])]
