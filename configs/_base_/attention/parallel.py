# Table 3: both gates read the block's output.
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM', order='parallel'))]
