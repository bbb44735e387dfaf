# Squeeze-and-excitation, as in the paper's comparisons: only the channel gate, average pooling.
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM', pools=('avg',), order='channel'))]
