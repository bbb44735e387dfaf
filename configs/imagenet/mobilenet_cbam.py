# CBAM after every convolution, as in table 5; width 0.7 is widen_factor=0.7 and in_channels=716.
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
