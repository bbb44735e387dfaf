# A comparison as in table 4 of the paper, on Tiny-ImageNet and for a CPU. As in the paper: SGD with
# momentum 0.9, weight decay 1e-4, learning rate 0.1 per 256 images. Different: half the width, 200
# classes at 64 pixels, cosine annealing over fewer epochs, and random crops of at least a quarter
# of the image instead of 8%.
_base_ = [
    '../_base_/models/resnet18_half.py',
    '../_base_/datasets/tiny_imagenet.py',
    'mmpretrain::_base_/schedules/imagenet_bs256.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['cbam_det'])
max_epochs = 14
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
optim_wrapper = dict(optimizer=dict(lr=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=782),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs,
        end=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
channels_last = True
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
