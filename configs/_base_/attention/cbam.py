# CBAM after the last norm of every bottleneck, before the addition (figure 3 of the paper).
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM'), position='after_conv3')]
