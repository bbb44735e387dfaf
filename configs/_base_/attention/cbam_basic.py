# CBAM after the last norm of every BasicBlock (ResNet-18 and 34), before the addition.
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM', start='identity'), after='layer*.*.bn2')]
