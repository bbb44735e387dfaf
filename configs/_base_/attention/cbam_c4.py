# CBAM in every bottleneck of a C4 detector, whose fourth stage is in the RoI head.
custom_imports = dict(imports=['cbam_det'])
attention = dict(type='CBAM', start='identity')
plugins = [dict(cfg=attention, after='layer*.*.bn3')]
shared_head_plugins = [dict(cfg=attention, after='layer4.*.bn3')]
