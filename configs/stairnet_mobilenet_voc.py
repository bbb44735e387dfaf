# Table 7: StairNet with MobileNetV1 and 6, 6, 6, 6, 4, 4 anchors.
_base_ = './ssd300_mobilenet_voc.py'
anchors = dict(ratios=[[2, 3], [2, 3], [2, 3], [2, 3], [2], [2]])
model = dict(
    neck=dict(type='StairNet', stair_channels=128, stair_depthwise=True),
    bbox_head=dict(in_channels=(128,) * 6, anchor_generator=anchors),
)
