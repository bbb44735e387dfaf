# CBAM as in cbam.py, by `torch.compile`: for GPUs. The first steps take a minute.
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM', compile=True))]
