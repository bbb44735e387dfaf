# The full SSD300 on images of 300 pixels, from scratch with the identity start, as in all records
# of the digits. An epoch takes an hour on two CPU cores.
_base_ = [
    'mmdet::_base_/models/ssd300.py',
    './_base_/datasets/digits_voc.py',
    './_base_/schedules/digits.py',
    'mmdet::_base_/default_runtime.py',
    './_base_/attention/cbam.py',
]
model = dict(
    backbone=dict(
        type='WithPlugins',
        base_type='SSDVGG',
        init_cfg=None,
        plugins=_base_.plugins,
    ),
    neck=dict(type='WithPlugins', base_type='SSDNeck', plugins=_base_.plugins),
    bbox_head=dict(num_classes=10),
)
train_pipeline = _base_.train_pipeline
train_pipeline[2].update(scale=(300, 300), keep_ratio=False)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=(300, 300), keep_ratio=False)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=2e-4))
