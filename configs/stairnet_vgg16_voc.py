# Table 7: StairNet with SSD300's backbone and 6, 6, 6, 6, 4, 4 anchors.
_base_ = './ssd300_vgg16_voc.py'
custom_imports = dict(imports=['cbam_det'])
anchors = dict(ratios=[[2, 3], [2, 3], [2, 3], [2, 3], [2], [2]])
model = dict(
    neck=dict(type='StairNet', stair_channels=256),
    bbox_head=dict(in_channels=(256,) * 6, anchor_generator=anchors),
)
