# Squeeze-and-excitation, the paper's comparison: average pool, channel gate alone.
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM', pools=('avg',), order='channel'))]
