# Table 3: first the spatial gate, then the channel gate.
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM', order='spatial-channel'))]
