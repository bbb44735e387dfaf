# Table 3: spatial gate, then channel gate.
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM', order='spatial-channel'))]
