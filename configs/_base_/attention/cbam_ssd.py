# CBAM on each of the feature maps that SSD's predictors read, as the paper has it in StairNet.
custom_imports = dict(imports=['cbam_det'])
attention = dict(type='CBAM', start='identity')
backbone_plugins = [dict(cfg=attention, after='features.34')]
neck_plugins = [dict(cfg=attention, after=['l2_norm', 'extra_layers.*'])]
