# A classifier of mmpretrain with mmdet's ResNet-18 at half width and the stem of detectors (7x7
# convolution with stride 2, then max pooling).
_base_ = 'mmpretrain::_base_/models/resnet18.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmdet.ResNet',
        depth=18,
        base_channels=32,
        stem_channels=32,
        out_indices=(3,),
        norm_eval=False,
        zero_init_residual=False,  # as in the authors' code; with True, CBAM would start on zeros
    ),
    head=dict(num_classes=200, in_channels=256),
)
