# Table 2: spatial gate with pooling over the channels, kernel size 3.
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM', kernel_size=3))]
