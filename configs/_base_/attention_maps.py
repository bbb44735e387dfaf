# Draw the attention in two validation images at each validation. Add this file to the bases of a
# config. Two bases with custom_hooks clash, so for SSD and RTMDet use instead
# --cfg-options default_hooks.attention_maps.type=AttentionMapsHook
custom_hooks = [dict(type='AttentionMapsHook', count=2)]
