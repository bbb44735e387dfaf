# Table 1: only the channel gate, with max pooling.
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM', pools=('max',), order='channel'))]
