# CBAM as in cbam.py, with `torch.compile`. Compiling takes about a minute.
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM', compile=True))]
