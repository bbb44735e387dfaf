# CBAM after the last norm of every bottleneck, before the addition (figure 3 of the paper), from a
# start that changes nothing (docs/identity.md).
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM', start='identity'), after='layer*.*.bn3')]
