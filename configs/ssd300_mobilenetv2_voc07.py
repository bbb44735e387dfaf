# A comparison as in table 7 of the paper, on VOC 2007 and for a CPU. As in the paper: 300 pixels
# and SSD's augmentation. Different: MobileNetV2 instead of V1, VOC 2007 without 2012, batch size
# 16, 6 epochs with cosine annealing, and the first two stages of the backbone are frozen, which
# saves a quarter of the time.
_base_ = [
    './_base_/models/ssd300_mobilenetv2.py',
    './_base_/datasets/voc07.py',
    './_base_/schedules/cosine.py',
    'mmdet::_base_/default_runtime.py',
]
custom_imports = dict(imports=['cbam_det'])
resize = dict(type='Resize', scale=(300, 300), keep_ratio=False)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Expand', mean=[123.675, 116.28, 103.53], to_rgb=True, ratio_range=(1, 4)),
    dict(type='MinIoURandomCrop', min_ious=(0.1, 0.3, 0.5, 0.7, 0.9), min_crop_size=0.3),
    resize,
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='PhotoMetricDistortion',
        brightness_delta=32,
        contrast_range=(0.5, 1.5),
        saturation_range=(0.5, 1.5),
        hue_delta=18,
    ),
    dict(type='PackDetInputs'),
]
test_pipeline = _base_.test_pipeline
test_pipeline[1] = resize
model = dict(backbone=dict(frozen_stages=2))
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    batch_sampler=None,
    dataset=dict(pipeline=train_pipeline),
)
val_dataloader = dict(num_workers=1, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
max_epochs = 6
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
optim_wrapper = dict(optimizer=dict(lr=0.01, weight_decay=5e-4))
param_scheduler = _base_.param_scheduler
param_scheduler[0].update(end=300)
param_scheduler[1].update(T_max=max_epochs, end=max_epochs)
channels_last = True
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
