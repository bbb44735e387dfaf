# Table 3: both gates get the same input, in parallel.
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM', order='parallel'))]
