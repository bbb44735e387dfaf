# Tiny-ImageNet: 100,000 training and 10,000 validation images of 64 x 64 pixels in 200 classes
# (`python tools/prepare_tiny_imagenet.py data/tiny-imagenet-200`). The archive's test images have
# no labels, so the validation images are used for testing.
data = dict(type='CustomDataset', data_root='data/tiny-imagenet-200/')
data_preprocessor = dict(
    num_classes=200, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)
train_dataloader = dict(
    batch_size=128,
    num_workers=0,  # decoding such small images is faster than passing them from a worker
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    drop_last=True,
    dataset=dict(
        ann_file='meta/train.txt',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='RandomResizedCrop', scale=64, crop_ratio_range=(0.25, 1.0)),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ],
        **data,
    ),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        ann_file='meta/val.txt',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=64),
            dict(type='PackInputs'),
        ],
        **data,
    ),
)
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
