# Tables 1 and 2: channel gate alone, average and maximum pools.
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM', order='channel'))]
