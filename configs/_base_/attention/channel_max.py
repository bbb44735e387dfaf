# Table 1: channel gate alone, maximum pool.
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM', pools=('max',), order='channel'))]
