# Table 2: spatial summary by a learned 1x1 convolution, kernel 3.
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM', spatial_pools='conv', kernel_size=3))]
