# Tables 1 and 2: only the channel gate, with average and max pooling.
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM', order='channel'))]
