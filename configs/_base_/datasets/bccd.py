# BCCD, blood cells in 364 microscope images (MIT licence) in VOC's layout: 205 for training, 87 for
# validation, 72 for testing. One training box has no area and would make the loss infinite;
# bbox_min_size removes it.
_base_ = 'mmdet::_base_/default_runtime.py'
data = dict(
    type='XMLDataset',
    data_root='data/BCCD/',
    metainfo=dict(classes=('Platelets', 'RBC', 'WBC')),
    data_prefix=dict(img='', sub_data_root=''),
)
resize = dict(type='Resize', scale=(320, 240), keep_ratio=True)
meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    resize,
    dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    resize,
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=(*meta_keys, 'instances')),
]
workers = dict(num_workers=2, persistent_workers=True)
train_dataloader = dict(
    batch_size=8,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        ann_file='ImageSets/Main/train.txt',
        filter_cfg=dict(filter_empty_gt=True, min_size=32, bbox_min_size=1),
        pipeline=train_pipeline,
        **data,
    ),
    **workers,
)
val_dataloader = dict(
    batch_size=8,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(ann_file='ImageSets/Main/val.txt', test_mode=True, pipeline=test_pipeline, **data),
    **workers,
)
test_dataloader = dict(
    batch_size=8,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        ann_file='ImageSets/Main/test.txt', test_mode=True, pipeline=test_pipeline, **data
    ),
    **workers,
)
val_evaluator = [
    dict(type='CocoMetric', metric='bbox'),
    dict(type='VOCMetric', metric='mAP', eval_mode='11points'),
]
test_evaluator = val_evaluator
