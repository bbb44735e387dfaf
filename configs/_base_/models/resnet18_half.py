# ResNet-18 at half the width, with the detectors' stem (7x7 of stride 2, then the pool), as a
# classifier of mmpretrain around mmdet's backbone.
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
        zero_init_residual=False,  # as the authors'; CBAM would see zeros at first
    ),
    head=dict(num_classes=200, in_channels=256),
)
