# Table 2: spatial summary by channel pooling, kernel 3.
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM', kernel_size=3))]
