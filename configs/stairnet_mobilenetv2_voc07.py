# StairNet of table 7 with MobileNetV2 and 6, 6, 6, 6, 4, 4 anchors.
_base_ = './ssd300_mobilenetv2_voc07.py'
anchors = dict(ratios=[[2, 3], [2, 3], [2, 3], [2, 3], [2], [2]])
model = dict(
    neck=dict(type='StairNet', stair_channels=128, stair_depthwise=True),
    bbox_head=dict(in_channels=(128,) * 6, anchor_generator=anchors),
)
