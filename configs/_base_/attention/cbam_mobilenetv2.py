# CBAM at the end of every inverted residual of MobileNetV2, before the addition, from stride 8 on:
# what lies before is frozen in the detectors.
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM', start='identity'), after='layer[3-7].*.linear_conv')]
