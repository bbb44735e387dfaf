# ImageNet with the paper's settings: batch size 256, learning rate 0.1, weight decay 1e-4, a tenth
# of the rate after 30, 60 and 90 of 100 epochs. The backbone is that of the detectors. Needs
# mmpretrain.
_base_ = [
    'mmpretrain::_base_/models/resnet50.py',
    'mmpretrain::_base_/datasets/imagenet_bs32.py',
    'mmpretrain::_base_/schedules/imagenet_bs256.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['cbam_det'])
model = dict(
    backbone=dict(
        _delete_=True,
        type='WithPlugins',
        base_type='mmdet.ResNet',
        depth=50,
        out_indices=(3,),
        norm_eval=False,
        plugins=[dict(cfg=dict(type='CBAM', start='paper'))],
    )
)
runner_type = 'CheckedRunner'  # for mmpretrain's own tool, which `mim train` calls
