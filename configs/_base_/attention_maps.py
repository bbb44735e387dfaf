# What the CBAMs attend to in two validation images, at each validation: a further base of a leaf.
# Where a base has custom_hooks of its own (SSD, RTMDet) mmengine takes no second one; there it is
# --cfg-options default_hooks.attention_maps.type=AttentionMaps
custom_hooks = [dict(type='AttentionMaps', count=2)]
