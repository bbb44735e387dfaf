# faster_rcnn_r18_small.py with ResNet-18 at half width and no frozen stages. The backbone starts
# from the classifier that configs/tiny_imagenet/resnet18_half.py trains.
_base_ = './faster_rcnn_r18_small.py'
model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(
        base_channels=32,
        stem_channels=32,
        frozen_stages=-1,
        norm_eval=False,
        init_cfg=dict(checkpoint='work_dirs/resnet18_half/epoch_14.pth', prefix='backbone.'),
    ),
    neck=dict(in_channels=[32, 64, 128, 256]),
)
