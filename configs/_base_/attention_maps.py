# What the CBAMs attend to in two validation images, at each validation: a further base of a leaf.
# Where a base has custom_hooks of its own (SSD, RTMDet) mmengine takes no second one; there it is
# --cfg-options default_hooks.attention_maps.type=AttentionMapsHook
custom_hooks = [dict(type='AttentionMapsHook', count=2)]
