# CBAM after every convolution, as in table 5; for width 0.7, set widen_factor=0.7, in_channels=716.
_base_ = './resnet50_cbam.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='WithPlugins',
        base_type='MobileNetV1',
        out_indices=(4,),
        plugins=[dict(cfg=dict(type='CBAM', start='paper'))],
    ),
    head=dict(in_channels=1024),
)
