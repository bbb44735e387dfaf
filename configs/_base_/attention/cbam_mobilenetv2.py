# CBAM at the end of every inverted residual of MobileNetV2, before the addition.
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM', start='identity'), after='layer*.*.linear_conv')]
