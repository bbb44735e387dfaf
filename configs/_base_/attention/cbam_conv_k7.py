# Table 2: spatial gate with a learned 1x1 convolution instead of pooling, kernel size 7.
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM', spatial_pools='conv'))]
